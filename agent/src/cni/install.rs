//! Puts the plugin on a node and takes it away: its binary, and its entry in the node's network.

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use serde_json::{Map, Value, json};
use tracing::warn;

use crate::file;

/// The plugin's type, and so its file's name.
const PLUGIN: &str = "truepeer";
/// The extensions of a single plugin and of a list of them, as libcni reads them.
const SINGLE: [&str; 2] = ["conf", "json"];
const LIST: &str = "conflist";
/// Added to the name of a file that was a network before truepeer was chained; libcni does not read it.
const BEFORE: &str = "truepeer";
/// How long others may take to write a network, in milliseconds.
const SETTLE: u16 = 1000;

/// The directories of a node in which a container runtime looks.
#[derive(Clone, Debug)]
pub struct Node {
    /// For plugins.
    pub bin: PathBuf,
    /// For networks.
    pub conf: PathBuf,
}

impl Node {
    /// Installs the plugin and chains it into the node's network, the first of its directory, as `entry`.
    /// Returns what it did, a line each; nothing if all is in place.
    ///
    /// # Errors
    ///
    /// When a directory is missing or cannot be written. A node without a network is no error: it gets the
    /// binary.
    pub fn install(&self, entry: &Value) -> Result<Vec<String>> {
        let mut done = Vec::from_iter(self.install_binary()?);
        let mut networks = self.networks()?.into_iter();
        let Some(mut network) = networks.next() else {
            let conf = self.conf.display();
            warn!("no network in {conf} yet: pods start without truepeer");
            return Ok(done);
        };
        if network.plugins().contains(entry) {
            return Ok(done);
        }
        if network.has_plugin() {
            // Another entry.
            network = network.unchain()?;
        }
        network.chain(entry)?;
        let (list, name) = (network.list_path(), network.name());
        done.push(format!("chained into {} (network {name})", list.display()));
        Ok(done)
    }

    /// Removes the plugin from every network, then its binary. Returns what it did, a line each.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or changed.
    pub fn uninstall(&self) -> Result<Vec<String>> {
        let mut done = Vec::new();
        for network in self.networks()? {
            if network.has_plugin() {
                network.unchain()?;
                let path = network.path.display();
                done.push(format!("removed from {path} (network {})", network.name()));
            }
        }
        // Of networks that somebody else has replaced since.
        for before in self.files()? {
            if before.extension().is_some_and(|end| end == BEFORE) {
                remove(&before)?;
            }
        }
        let binary = self.bin.join(PLUGIN);
        if remove(&binary)? {
            done.push(format!("removed {}", binary.display()));
        }
        Ok(done)
    }

    /// Calls `act`, and again whenever a network has changed, until SIGTERM. An error is told, and tried again
    /// with the next change.
    ///
    /// # Errors
    ///
    /// When the directory cannot be watched.
    pub fn watch(&self, act: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let context = || format!("cannot watch {}", self.conf.display());
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGTERM);
        mask.thread_block().with_context(context)?;
        let terminated =
            SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC).with_context(context)?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).with_context(context)?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        inotify
            .add_watch(&self.conf, changes)
            .with_context(context)?;
        loop {
            if let Err(error) = act(self) {
                warn!("{error:#}");
            }
            let mut ready = [
                PollFd::new(terminated.as_fd(), PollFlags::POLLIN),
                PollFd::new(inotify.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut ready, PollTimeout::NONE).with_context(context)?;
            // The others may not have finished what they are writing.
            if poll(&mut ready[..1], SETTLE).with_context(context)? > 0 {
                return Ok(());
            }
            inotify.read_events().with_context(context)?;
        }
    }

    /// Copies this process's own binary, unless it is there.
    fn install_binary(&self) -> Result<Option<String>> {
        let own = fs::read("/proc/self/exe").context("cannot read this binary")?;
        let path = self.bin.join(PLUGIN);
        if fs::read(&path).is_ok_and(|there| there == own) {
            return Ok(None);
        }
        file::replace(&path, &own, 0o755)?;
        Ok(Some(format!("installed {}", path.display())))
    }

    /// The directory's networks in the order in which runtimes read them. Those that cannot be understood are
    /// left out, as runtimes do.
    fn networks(&self) -> Result<Vec<Network>> {
        let mut networks = Vec::new();
        for path in self.files()? {
            let extension = path.extension().unwrap_or_default();
            if extension != LIST && SINGLE.iter().all(|single| extension != *single) {
                continue;
            }
            match Network::read(&path) {
                Ok(network) => networks.push(network),
                Err(error) => warn!("{} is left out: {error:#}", path.display()),
            }
        }
        Ok(networks)
    }

    /// All files of the networks' directory, sorted by name.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let context = || format!("cannot read {}", self.conf.display());
        let mut paths: Vec<_> = fs::read_dir(&self.conf)
            .with_context(context)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .with_context(context)?;
        paths.sort();
        Ok(paths)
    }
}

/// A network's configuration.
struct Network {
    path: PathBuf,
    /// As read.
    bytes: Vec<u8>,
    /// As a list of plugins, be it one or not.
    list: Map<String, Value>,
}

impl Network {
    fn read(path: &Path) -> Result<Self> {
        Self::parse(path, fs::read(path).context("cannot read it")?)
    }

    /// What a file at `path` with these bytes says.
    fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let mut list: Map<String, Value> =
            serde_json::from_slice(&bytes).context("it is not a JSON object")?;
        if path.extension().is_none_or(|end| end != LIST) {
            list = listed(list);
        }
        if list.get("plugins").and_then(Value::as_array).is_none() {
            bail!("it has no list of plugins");
        }
        Ok(Self {
            path: path.to_owned(),
            bytes,
            list,
        })
    }

    fn name(&self) -> &str {
        let name = self.list.get("name").and_then(Value::as_str);
        name.unwrap_or("without a name")
    }

    fn plugins(&self) -> &[Value] {
        self.list["plugins"].as_array().map_or(&[], Vec::as_slice)
    }

    fn has_plugin(&self) -> bool {
        self.plugins().iter().any(is_truepeer)
    }

    /// Where it is, or would be, as a list.
    fn list_path(&self) -> PathBuf {
        self.path.with_extension(LIST)
    }

    /// Where it is kept while truepeer is in the list.
    fn before(&self) -> PathBuf {
        self.path.with_added_extension(BEFORE)
    }

    /// The list with these plugins instead of its own.
    fn with(&self, plugins: Vec<Value>) -> Map<String, Value> {
        let mut list = self.list.clone();
        list.insert("plugins".to_owned(), plugins.into());
        list
    }

    /// The list with `entry` at its end.
    fn chained(&self, entry: &Value) -> Map<String, Value> {
        self.with([self.plugins(), std::slice::from_ref(entry)].concat())
    }

    /// Appends the plugin. At any time the first network of the directory is either the former or the new one.
    fn chain(&self, entry: &Value) -> Result<()> {
        let list = self.list_path();
        let chained = self.chained(entry);
        if list == self.path {
            file::replace(&self.before(), &self.bytes, self.mode()?)?;
            return self.write(&list, &chained);
        }
        // `10-x.conf` comes before `10-x.conflist`, and so counts until it has another name.
        let is_half_done = |there: Network| there.list == chained;
        if list.exists() && !Network::read(&list).is_ok_and(is_half_done) {
            bail!(
                "{} and {} are both there: remove the one that is not in use",
                self.path.display(),
                list.display()
            );
        }
        self.write(&list, &chained)?;
        rename(&self.path, &self.before())
    }

    /// Removes the plugin: to the byte, if nobody else has changed the list since. Returns what is left.
    fn unchain(&self) -> Result<Self> {
        let (entries, others): (Vec<_>, Vec<_>) =
            self.plugins().iter().cloned().partition(is_truepeer);
        let is_same = |former: &Self| former.chained(&entries[0]) == self.list;
        if let Some(former) = self.former().filter(is_same) {
            rename(&former.before(), &former.path)?;
            if former.path != self.path {
                remove(&self.path)?;
            }
            return Ok(former);
        }
        self.write(&self.path, &self.with(others))?;
        Self::read(&self.path)
    }

    /// What the network was before truepeer was chained.
    fn former(&self) -> Option<Self> {
        [LIST].iter().chain(&SINGLE).find_map(|extension| {
            let path = self.path.with_extension(extension);
            let bytes = fs::read(path.with_added_extension(BEFORE)).ok()?;
            Self::parse(&path, bytes).ok()
        })
    }

    fn mode(&self) -> Result<u32> {
        Ok(fs::metadata(&self.path)?.permissions().mode() & 0o7777)
    }

    fn write(&self, path: &Path, list: &Map<String, Value>) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(list)?;
        text.push(b'\n');
        file::replace(path, &text, self.mode()?)
    }
}

/// What a network's list is to say of truepeer: what the file says, or what does for most.
///
/// # Errors
///
/// When the file cannot be read, or is no entry of truepeer.
pub fn entry(path: Option<&Path>) -> Result<Value> {
    let Some(path) = path else {
        return Ok(json!({
            "type": PLUGIN,
            "capabilities": {"io.kubernetes.cri.pod-annotations": true},
        }));
    };
    let shown = path.display();
    let bytes = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    let entry = serde_json::from_slice(&bytes).with_context(|| format!("{shown} is not JSON"))?;
    if !is_truepeer(&entry) {
        bail!("{shown} is not an entry of truepeer: it needs \"type\": \"{PLUGIN}\"");
    }
    Ok(entry)
}

/// Removes what the plugin knows of pods.
///
/// # Errors
///
/// When the directory cannot be removed.
pub fn forget(pods: &Path) -> Result<()> {
    match fs::remove_dir_all(pods) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", pods.display()))
        }
        _ => Ok(()),
    }
}

fn is_truepeer(plugin: &Value) -> bool {
    plugin["type"] == PLUGIN
}

/// A single plugin as a list of one, as libcni makes it.
fn listed(plugin: Map<String, Value>) -> Map<String, Value> {
    let shared = ["cniVersion", "name"]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), plugin.get(key)?.clone())));
    let mut list: Map<_, _> = shared.collect();
    list.insert("plugins".to_owned(), json!([plugin]));
    list
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .and_then(|()| file::sync_parent(to))
        .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

/// Removes a file; tells whether it was there.
fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path).and_then(|()| file::sync_parent(path)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
            let network = Network::read(&self.node.conf.join(name)).unwrap();
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
        let mut network = Network::read(&expected).unwrap();
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
    fn another_entry_takes_the_place_of_the_first() {
        let fixture = Fixture::new(&[("10-a.conf", SINGLE)]);
        let before = fixture.files();
        fixture.node.install(&entry(None).unwrap()).unwrap();
        fixture.write("entry", r#"{"type": "truepeer", "onAgentDown": "closed"}"#);
        let path = fixture.node.conf.join("entry");
        let closed = entry(Some(&path)).unwrap();
        assert_eq!(fixture.node.install(&closed).unwrap().len(), 1);
        assert_eq!(fixture.types("10-a.conflist"), ["ptp", "truepeer"]);
        let network = Network::read(&fixture.node.conf.join("10-a.conflist")).unwrap();
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
}
