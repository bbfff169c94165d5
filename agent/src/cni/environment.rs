//! The parameters that a runtime passes in the environment.

use std::{env, path::PathBuf};

use super::error::{Code, Error};
use crate::{
    host::netns::is_interface_name,
    workloads::{PodName, pods::Id},
};

/// The variable with the command.
pub const COMMAND: &str = "CNI_COMMAND";

/// The specification's commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A pod comes.
    Add,
    /// Whether all is as ADD left it.
    Check,
    /// A pod goes.
    Del,
    /// What belongs to no pod goes.
    Gc,
    /// Whether pods can be added.
    Status,
    /// Which versions of the specification are supported.
    Version,
}

/// Parameters of one attachment. [`Command::Gc`] and [`Command::Status`] have none.
#[derive(Debug)]
pub(super) struct Environment {
    /// The attachment.
    pub(super) id: Id,
    /// Path of the pod's network namespace; empty where the command does not need it.
    pub(super) netns: PathBuf,
    /// The pod, if the runtime works for Kubernetes.
    pub(super) pod: Option<PodName>,
}

/// Reads the command.
pub(super) fn command() -> Result<Command, Error> {
    let invalid = |details| {
        let msg = format!("invalid environment variable {COMMAND}");
        Error::new(Code::Environment, msg, details)
    };
    match &*variable(COMMAND) {
        "ADD" => Ok(Command::Add),
        "CHECK" => Ok(Command::Check),
        "DEL" => Ok(Command::Del),
        "GC" => Ok(Command::Gc),
        "STATUS" => Ok(Command::Status),
        "VERSION" => Ok(Command::Version),
        "" => Err(invalid(
            "it is not set: container runtimes run this plugin, `truepeer cni --help` tells more"
                .into(),
        )),
        other => Err(invalid(format!(
            "\"{other}\" is none of ADD, CHECK, DEL, GC, STATUS and VERSION"
        ))),
    }
}

impl Environment {
    /// Reads the parameters that the command needs.
    pub(super) fn read(command: Command) -> Result<Self, Error> {
        let [container_id, netns, ifname] =
            ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"].map(|name| (name, variable(name)));
        let required: &[_] = match command {
            Command::Add | Command::Check => &[&container_id, &netns, &ifname],
            Command::Del => &[&container_id, &ifname],
            Command::Gc | Command::Status | Command::Version => &[],
        };
        let missing = required.iter().filter(|(_, value)| value.is_empty());
        let missing: Vec<_> = missing.map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            let msg = format!("missing environment variables {}", missing.join(", "));
            return Err(Error::new(
                Code::Environment,
                msg,
                "the runtime must set them",
            ));
        }
        for (name, value, is_valid) in [
            (container_id.0, &container_id.1, is_name(&container_id.1)),
            (ifname.0, &ifname.1, is_interface_name(&ifname.1)),
        ] {
            if !required.is_empty() && !is_valid {
                let msg = format!("invalid environment variable {name}");
                return Err(Error::new(
                    Code::Environment,
                    msg,
                    format!("{name}={value}"),
                ));
            }
        }
        Ok(Self {
            id: Id {
                container_id: container_id.1,
                ifname: ifname.1,
            },
            netns: netns.1.into(),
            pod: pod_name(&variable("CNI_ARGS"))?,
        })
    }
}

/// The value of a variable; empty if it is not set or no text.
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// Whether the specification allows this name or id for a container or a network.
pub(super) fn is_name(text: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(is_inner)
}

/// The pod in `CNI_ARGS`, as Kubernetes' runtimes name it: `K8S_POD_NAMESPACE=…;K8S_POD_NAME=…`.
fn pod_name(arguments: &str) -> Result<Option<PodName>, Error> {
    let (mut namespace, mut name, mut uid) = (None, None, None);
    for argument in arguments.split(';').filter(|text| !text.is_empty()) {
        let Some((key, value)) = argument.split_once('=') else {
            let details = format!("\"{argument}\" is no KEY=VALUE");
            let msg = "invalid environment variable CNI_ARGS";
            return Err(Error::new(Code::Environment, msg, details));
        };
        match key {
            "K8S_POD_NAMESPACE" => namespace = Some(value.to_owned()),
            "K8S_POD_NAME" => name = Some(value.to_owned()),
            "K8S_POD_UID" => uid = Some(value.to_owned()),
            _ => {}
        }
    }
    let pod = namespace.zip(name);
    Ok(pod.map(|(namespace, name)| PodName {
        namespace,
        name,
        uid,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_specifications() {
        for good in ["a", "0", "a_b.c-d", "4f0c"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "-a", "a/b", "a:b", "ä", "a b"] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_pod_has_a_namespace_and_a_name() {
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u";
        let pod = pod_name(arguments).unwrap().unwrap();
        assert_eq!(
            (pod.to_string(), pod.uid),
            ("shop/web-0".into(), Some("u".into()))
        );
        assert_eq!(pod_name("K8S_POD_NAME=web-0").unwrap(), None);
        assert_eq!(pod_name("").unwrap(), None);
        assert!(pod_name("K8S_POD_NAME").is_err());
    }
}
