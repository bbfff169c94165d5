//! The command ADD.

use hyper::Method;

use super::{
    ask::{self, AgentReply},
    environment::Environment,
    error::{Code, Error},
    netconf::NetConf,
};
use crate::{
    host::netns::{Netns, boot_id},
    workloads::pods::{self, Attachment, Directory},
};

/// Writes the file of an attachment, asks the agent to take it up, and returns the result of the previous plugins.
pub(super) fn add(environment: &Environment, network: &NetConf) -> Result<String, Error> {
    let result = network.prev_result()?;
    let attachment = attachment(environment, network)?;
    let directory = Directory::new(&network.pods);
    directory.write(&attachment)?;
    let error = match ask::ask(network, Method::PUT, &attachment.id) {
        AgentReply::Done => None,
        AgentReply::Down(reason) if network.goes_on(&reason) => None,
        AgentReply::Down(reason) => Some(Error::new(Code::Later, "the agent is down", reason)),
        AgentReply::Unknown(reason) | AgentReply::Refused(reason) => Some(Error::new(
            Code::Network,
            "the agent refuses the pod",
            reason,
        )),
    };
    if let Some(error) = error {
        directory.remove(&attachment.id)?;
        return Err(error);
    }
    Ok(result.get().to_owned())
}

/// The attachment that ADD asks for.
fn attachment(environment: &Environment, network: &NetConf) -> Result<Attachment, Error> {
    let (steer, unwrap) = network.sections()?;
    let netns = open_netns(environment)?;
    let attachment = Attachment {
        id: environment.id.clone(),
        network: network.name.clone(),
        netns: environment.netns.clone(),
        netns_inode: netns.inode(),
        netns_cookie: netns.cookie(),
        boot_id: boot_id()?,
        pod: environment.pod.clone(),
        steer,
        unwrap,
    };
    // Without a running agent, nobody else would find the mistake.
    pods::rules([&attachment]).map_err(|error| {
        Error::new(
            Code::Network,
            format!("invalid configuration for {attachment}"),
            error,
        )
    })?;
    Ok(attachment)
}

/// Opens the pod's network namespace, which must not be the host's.
pub(super) fn open_netns(environment: &Environment) -> Result<Netns, Error> {
    let invalid = |details: anyhow::Error| {
        let msg = "invalid environment variable CNI_NETNS";
        Error::new(Code::Environment, msg, details)
    };
    let netns = Netns::open(&environment.netns).map_err(invalid)?;
    if netns == Netns::current()? {
        let path = environment.netns.display();
        return Err(invalid(anyhow::anyhow!(
            "{path} is the host's own network namespace"
        )));
    }
    Ok(netns)
}
