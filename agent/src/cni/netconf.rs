//! The network configuration that the runtime passes to this plugin.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, value::RawValue};

use super::{
    environment::{Command, is_name},
    error::{Code, Error},
    overlay,
};
use crate::{
    config::AgentSettings,
    workloads::pods::{Id, Sections},
};

/// The versions of the specification that this plugin supports.
pub(super) const SUPPORTED: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", LATEST];
pub(super) const LATEST: &str = "1.1.0";

/// The keys that the configuration can have, besides those that begin with `cni.dev/`.
const KEYS: [&str; 12] = [
    "cniVersion",
    "name",
    "type",
    "args",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "socket",
    "pods",
    "onAgentDown",
    "steer",
    "unwrap",
];

/// The plugin's configuration in one network.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    /// The network's name.
    #[serde(default)]
    pub(super) name: String,
    /// The agent's Unix socket.
    #[serde(default = "socket")]
    pub(super) socket: PathBuf,
    /// The directory of attachments' files, the same as in the agent's configuration.
    #[serde(default = "pods")]
    pub(super) pods: PathBuf,
    /// What happens to pods while no agent answers.
    #[serde(default)]
    pub(super) on_agent_down: OnAgentDown,
    /// Which connections are steered in each pod.
    #[serde(default)]
    pub(super) steer: Sections,
    /// Where the data path takes PROXY headers off in each pod.
    #[serde(default)]
    pub(super) unwrap: Sections,
    /// What the runtime adds about the pod.
    #[serde(default)]
    runtime_config: RuntimeConfig,
    /// The result of the previous plugins.
    #[serde(default)]
    prev_result: Option<Box<RawValue>>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<ValidAttachment>>,
}

/// What happens to pods while no agent answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnAgentDown {
    /// Pods start, and the agent takes them up when it starts.
    #[default]
    Open,
    /// Pods do not start.
    Closed,
}

#[derive(Debug, Default, Deserialize)]
struct RuntimeConfig {
    /// `null` for a pod without any.
    #[serde(default, rename = "io.kubernetes.cri.pod-annotations")]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

fn socket() -> PathBuf {
    AgentSettings::default().socket
}

fn pods() -> PathBuf {
    AgentSettings::default().pods
}

impl NetConf {
    /// Reads and checks the configuration, and sets `version` to the one that it is written in.
    ///
    /// # Errors
    ///
    /// When it is not what the specification and this plugin allow for the command.
    pub fn parse(input: &[u8], command: Command, version: &mut String) -> Result<Self, Error> {
        let fields: Map<String, Value> = decode(input)?;
        let found = version_of(&fields)?;
        let since = match command {
            Command::Check => "0.4.0",
            Command::Gc | Command::Status => "1.1.0",
            _ => SUPPORTED[0],
        };
        let known: Vec<_> = SUPPORTED.into_iter().skip_while(|v| *v != since).collect();
        if !known.contains(&found.as_str()) {
            let details = format!(
                "the network configuration's cniVersion is \"{found}\", supported here are {}",
                known.join(", ")
            );
            return Err(Error::new(
                Code::Version,
                "incompatible CNI version",
                details,
            ));
        }
        *version = found;
        // DEL must succeed even if the configuration has changed since ADD.
        if command != Command::Del {
            let mut keys = fields.iter();
            let is_known = |key: &str| KEYS.contains(&key) || key.starts_with("cni.dev/");
            if let Some((key, value)) = keys.find(|(key, _)| !is_known(key)) {
                return Err(unsupported(key, value));
            }
        }
        let network: Self = decode(input)?;
        if !is_name(&network.name) {
            let details = format!(
                "\"{}\": letters, digits, `_`, `.` and `-`, and a letter or a digit first",
                network.name
            );
            return Err(Error::new(Code::Network, "invalid network name", details));
        }
        Ok(network)
    }

    /// The result of the previous plugins, as they wrote it.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn prev_result(&self) -> Result<&RawValue, Error> {
        self.prev_result.as_deref().ok_or_else(|| {
            let details = "truepeer makes no interface: put it behind a plugin that does, in a list of plugins";
            Error::new(Code::Network, "the network configuration has no prevResult", details)
        })
    }

    /// The steers and unwraps of a pod: the network's, as the pod's annotations change them.
    ///
    /// # Errors
    ///
    /// When an annotation is unknown or invalid, or a section names a network namespace.
    pub fn sections(&self) -> Result<(Sections, Sections), Error> {
        let annotations = self.runtime_config.annotations.clone();
        let annotations = annotations.unwrap_or_default();
        let (steer, unwrap) = overlay::lay_over(&annotations, &self.steer, &self.unwrap)?;
        for section in steer.iter().chain(&unwrap) {
            if let Some(netns) = section.get("netns") {
                return Err(unsupported("netns", netns));
            }
        }
        Ok((steer, unwrap))
    }

    /// The attachments that the runtime knows of.
    pub(super) fn valid_attachments(&self) -> Result<Vec<Id>, Error> {
        let valid = self.valid_attachments.as_ref().ok_or_else(|| {
            let details = "without it, nothing is known to be garbage";
            let msg = "the network configuration has no cni.dev/valid-attachments";
            Error::new(Code::Network, msg, details)
        })?;
        let ids = valid.iter().map(|valid| Id {
            container_id: valid.container_id.clone(),
            ifname: valid.ifname.clone(),
        });
        Ok(ids.collect())
    }
}

/// The error for a field that must not be there.
fn unsupported(key: &str, value: &Value) -> Error {
    let msg = format!("unsupported field `{key}`: {value}");
    Error::new(
        Code::Field,
        msg,
        format!("truepeer's fields are {}", KEYS[7..].join(", ")),
    )
}

/// The version of the specification that the input is written in.
pub(super) fn version(input: &[u8]) -> Result<String, Error> {
    version_of(&decode(input)?)
}

fn version_of(fields: &Map<String, Value>) -> Result<String, Error> {
    match fields.get("cniVersion") {
        Some(version) => decode(version.to_string().as_bytes()),
        // The specification's default.
        None => Ok("0.1.0".into()),
    }
}

fn decode<T: DeserializeOwned>(input: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(input).map_err(|error| {
        Error::new(
            Code::Decode,
            "cannot decode the network configuration",
            error,
        )
    })
}
