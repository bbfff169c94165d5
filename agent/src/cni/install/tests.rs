use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _};

use super::*;

const BRIDGE: &str =
    "{\"name\": \"pods\",  \"cniVersion\": \"1.0.0\", \"plugins\": [{\"type\": \"bridge\"}]}";
const SINGLE: &str = "{\"name\":\"pods\",\"cniVersion\":\"0.3.1\",\"type\":\"ptp\"}\n";

struct Fixture {
    root: tempfile::TempDir,
    node: Node,
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let node = Node {
            bin: root.path().join("bin"),
            conf: root.path().join("conf"),
        };
        fs::create_dir(&node.bin).unwrap();
        fs::create_dir(&node.conf).unwrap();
        let fixture = Self { root, node };
        for (name, text) in files {
            fixture.write(name, text);
        }
        fixture
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.node.conf.join(name), text).unwrap();
    }

    /// Every file, with its mode and content.
    fn files(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        ["bin", "conf"]
            .iter()
            .flat_map(|directory| fs::read_dir(self.root.path().join(directory)).unwrap())
            .map(|entry| {
                let path = entry.unwrap().path();
                let mode = path.metadata().unwrap().permissions().mode();
                let bytes = fs::read(&path).unwrap();
                (path, (mode, bytes))
            })
            .collect()
    }

    fn types(&self, name: &str) -> Vec<String> {
        let network = Conflist::read(&self.node.conf.join(name)).unwrap();
        let kind = |plugin: &Value| plugin["type"].as_str().unwrap().to_owned();
        network.plugins().iter().map(kind).collect()
    }
}

#[test]
fn the_first_network_is_chained_and_restored_to_the_byte() {
    for (first, text, chained, plugin) in [
        ("10-a.conflist", BRIDGE, "10-a.conflist", "bridge"),
        ("10-a.conf", SINGLE, "10-a.conflist", "ptp"),
        ("10-a.json", SINGLE, "10-a.conflist", "ptp"),
    ] {
        let fixture = Fixture::new(&[
            ("00-broken.conflist", "{"),
            ("20-b.conflist", BRIDGE),
            (first, text),
            ("README", "x"),
        ]);
        let path = fixture.node.conf.join(first);
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        let before = fixture.files();
        assert_eq!(
            fixture.node.install(&entry(None).unwrap()).unwrap().len(),
            2
        );
        assert_eq!(fixture.types(chained), [plugin, "truepeer"]);
        assert_eq!(fixture.types("20-b.conflist"), ["bridge"]);
        let primary = fixture.node.networks().unwrap().remove(0);
        assert_eq!(primary.path.file_name().unwrap(), chained);
        assert_eq!(primary.list["name"], "pods");
        assert_eq!(primary.mode().unwrap(), 0o600);

        let installed = fixture.files();
        assert_eq!(
            fixture.node.install(&entry(None).unwrap()).unwrap(),
            [""; 0]
        );
        assert_eq!(fixture.files(), installed);

        assert_eq!(fixture.node.uninstall().unwrap().len(), 2);
        assert_eq!(fixture.files(), before, "{first}");
        assert_eq!(fixture.node.uninstall().unwrap(), [""; 0]);
    }
}

/// A fraction that is another number in memory than a reader takes it for who does not read every digit.
const WEIGHT: &str = "15022222222222222222222222222222222222222222222222222222222222222222222206";

#[test]
fn fractions_are_read_as_they_were_written() {
    let text = BRIDGE.replace("\"bridge\"", &format!("\"bridge\", \"weight\": {WEIGHT}"));
    let fixture = Fixture::new(&[("10-a.conflist", &text)]);
    let before = fixture.files();
    fixture.node.install(&entry(None).unwrap()).unwrap();
    fixture.node.uninstall().unwrap();
    assert_eq!(fixture.files(), before);
}

#[test]
fn what_others_write_stays() {
    let fixture = Fixture::new(&[("10-a.conflist", BRIDGE)]);
    fixture.node.install(&entry(None).unwrap()).unwrap();
    let newer = BRIDGE.replace("bridge", "calico");
    fixture.write("10-a.conflist", &newer);
    let expected = fixture.node.conf.join("10-a.conflist");
    assert_eq!(
        fixture.node.install(&entry(None).unwrap()).unwrap().len(),
        1
    );
    assert_eq!(fixture.types("10-a.conflist"), ["calico", "truepeer"]);
    fixture.node.uninstall().unwrap();
    assert_eq!(fs::read_to_string(&expected).unwrap(), newer);

    // A plugin that was chained after truepeer.
    fixture.node.install(&entry(None).unwrap()).unwrap();
    let mut network = Conflist::read(&expected).unwrap();
    network.list = network.chained(&json!({"type": "istio-cni"}));
    network.write(&expected, &network.list).unwrap();
    assert_eq!(
        fixture.node.install(&entry(None).unwrap()).unwrap(),
        [""; 0]
    );
    fixture.node.uninstall().unwrap();
    assert_eq!(fixture.types("10-a.conflist"), ["calico", "istio-cni"]);
    assert_eq!(fixture.files().len(), 1);
}

#[test]
fn what_was_interrupted_is_finished() {
    let fixture = Fixture::new(&[("10-a.conf", SINGLE)]);
    let before = fixture.files();
    let entry = entry(None).unwrap();
    let network = Conflist::read(&fixture.node.conf.join("10-a.conf")).unwrap();
    let list = network.list_path();
    // Chained, but the file with the single plugin still has its name. An interrupted removal leaves the same.
    network.write(&list, &network.chained(&entry)).unwrap();
    let half = fixture.files();
    fixture.node.uninstall().unwrap();
    assert_eq!(fixture.files(), before);

    network.write(&list, &network.chained(&entry)).unwrap();
    assert_eq!(fixture.files(), half);
    fixture.node.install(&entry).unwrap();
    assert_eq!(fixture.types("10-a.conflist"), ["ptp", "truepeer"]);
    fixture.node.uninstall().unwrap();
    assert_eq!(fixture.files(), before);
}

#[test]
fn another_entry_takes_the_place_of_the_first() {
    let fixture = Fixture::new(&[("10-a.conf", SINGLE)]);
    let before = fixture.files();
    fixture.node.install(&entry(None).unwrap()).unwrap();
    fixture.write("entry", r#"{"type": "truepeer", "onAgentDown": "closed"}"#);
    let path = fixture.node.conf.join("entry");
    let closed = entry(Some(&path)).unwrap();
    assert_eq!(fixture.node.install(&closed).unwrap().len(), 1);
    assert_eq!(fixture.types("10-a.conflist"), ["ptp", "truepeer"]);
    let network = Conflist::read(&fixture.node.conf.join("10-a.conflist")).unwrap();
    assert_eq!(network.plugins()[1], closed);

    fs::write(&path, r#"{"type": "bridge"}"#).unwrap();
    let error = entry(Some(&path)).unwrap_err().to_string();
    assert!(error.contains("is not an entry of truepeer"), "{error}");
    remove(&path).unwrap();
    fixture.node.uninstall().unwrap();
    assert_eq!(fixture.files(), before);
}

#[test]
fn a_node_without_a_network_gets_the_binary_and_a_wrong_one_an_error() {
    let fixture = Fixture::new(&[]);
    assert_eq!(
        fixture.node.install(&entry(None).unwrap()).unwrap().len(),
        1
    );
    fixture.node.uninstall().unwrap();
    assert_eq!(fixture.files(), BTreeMap::new());

    fixture.write("10-a.conf", SINGLE);
    fixture.write("10-a.conflist", BRIDGE);
    let error = fixture
        .node
        .install(&entry(None).unwrap())
        .unwrap_err()
        .to_string();
    assert!(error.contains("remove the one"), "{error}");
    let missing = Node {
        conf: "/nonexistent".into(),
        ..fixture.node.clone()
    };
    let error = format!("{:#}", missing.install(&entry(None).unwrap()).unwrap_err());
    assert!(error.contains("/nonexistent"), "{error}");
}
