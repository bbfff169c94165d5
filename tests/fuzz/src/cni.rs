//! The CNI plugin's standard input: every command accepts it or says why not, and DEL accepts what ADD did.

use serde_json::Value;
use truepeer::{
    cni::{Command, Error, NetConf},
    workloads::pods::{Attachment, Id, Sections, rules},
};

/// The commands that read a network's configuration.
const COMMANDS: [Command; 5] = [
    Command::Add,
    Command::Check,
    Command::Del,
    Command::Gc,
    Command::Status,
];
/// The versions of the specification that the plugin supports.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What a runtime writes to the plugin's standard input.
pub(crate) fn run(bytes: &[u8]) {
    let input: Option<Value> = serde_json::from_slice(bytes).ok();
    // What was found to be right already: commands mostly read the same, and refuse for the same reason.
    let (mut told, mut read) = (Vec::new(), Vec::new());
    let accepted = COMMANDS.map(|command| {
        let mut version = "1.1.0".to_owned();
        let network = match NetConf::parse(bytes, command, &mut version) {
            Ok(network) => network,
            Err(error) => {
                is_clear(error, version, &mut told);
                return false;
            }
        };
        let input = input.as_ref().expect("it is JSON");
        assert_eq!(input["cniVersion"], *version);
        assert!(VERSIONS.contains(&&*version));
        let shown = format!("{network:?}");
        if !read.contains(&shown) {
            read.push(shown);
            is_passed_on(&network, input);
            match network.sections() {
                Ok((steer, unwrap)) => is_judged(steer, unwrap),
                Err(error) => is_clear(error, version, &mut told),
            }
        }
        true
    });
    let [add, check, del, ..] = accepted;
    assert!(del || !add && !check, "what was added cannot be deleted");
}

/// A runtime can read an error, and somebody can understand it, unless it was told before.
fn is_clear(error: Error, version: String, told: &mut Vec<(Error, String)>) {
    let error = (error, version);
    if told.contains(&error) {
        return;
    }
    let (reason, version) = &error;
    let json: Value = serde_json::from_str(&reason.to_json(version)).expect("it is JSON");
    assert_eq!(json["cniVersion"], **version);
    assert!(json["code"].as_u64().is_some_and(|code| code > 0));
    let text = |key: &str| json[key].as_str().is_some_and(|text| !text.is_empty());
    assert!(text("msg") && text("details"));
    told.push(error);
}

/// The result of the plugins before this one is lost nothing of.
fn is_passed_on(network: &NetConf, input: &Value) {
    match network.prev_result() {
        Ok(result) => {
            let result: Value = serde_json::from_str(result.get()).expect("it is JSON");
            assert_eq!(result, input["prevResult"]);
        }
        Err(_) => assert!(input.get("prevResult").is_none_or(Value::is_null)),
    }
}

/// The agent reads what a pod asks for as it reads its own configuration.
fn is_judged(steer: Sections, unwrap: Sections) {
    let wanted = (steer.len(), unwrap.len());
    let attachment = Attachment {
        id: Id {
            container_id: "c0".into(),
            ifname: "eth0".into(),
        },
        network: "pods".into(),
        netns: "/run/netns/pod".into(),
        netns_inode: 1,
        netns_cookie: 1,
        boot_id: String::new(),
        pod: None,
        steer,
        unwrap,
    };
    match rules([&attachment]) {
        Ok(config) => {
            assert_eq!((config.steer.len(), config.unwrap.len()), wanted);
            let inside =
                |netns: &Option<std::path::PathBuf>| *netns == Some(attachment.netns.clone());
            assert!(config.steer.iter().all(|steer| inside(&steer.netns)));
            assert!(config.unwrap.iter().all(|unwrap| inside(&unwrap.netns)));
        }
        Err(error) => assert!(error.to_string().starts_with("error: ")),
    }
    // The agent reads the plugin's file again when it starts.
    let file = serde_json::to_vec(&attachment).expect("it is JSON");
    assert_eq!(
        serde_json::from_slice::<Attachment>(&file).unwrap(),
        attachment
    );
}
