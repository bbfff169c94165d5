//! ADD.

use hyper::Method;

use super::{
    annotations,
    ask::{self, Verdict},
    environment::Environment,
    error::{Code, Error},
    network::{Network, unsupported},
};
use crate::{
    host::netns::{Netns, boot_id},
    workloads::pods::{self, Attachment, Directory},
};

/// Remembers an attachment, and has the agent put in place what it asks for; the result of the plugins before.
pub(super) fn add(environment: &Environment, network: &Network) -> Result<String, Error> {
    let result = network.prev_result()?;
    let attachment = attachment(environment, network)?;
    let directory = Directory::new(&network.pods);
    directory.write(&attachment)?;
    let error = match ask::ask(network, Method::PUT, &attachment.id) {
        Verdict::Done => None,
        Verdict::Down(reason) if network.goes_on(&reason) => None,
        Verdict::Down(reason) => Some(Error::new(Code::Later, "the agent is down", reason)),
        Verdict::Unknown(reason) | Verdict::Refused(reason) => Some(Error::new(
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

fn attachment(environment: &Environment, network: &Network) -> Result<Attachment, Error> {
    let (steer, unwrap) =
        annotations::lay_over(&network.annotations(), &network.steer, &network.unwrap)?;
    for section in steer.iter().chain(&unwrap) {
        if let Some(netns) = section.get("netns") {
            return Err(unsupported("netns", netns));
        }
    }
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
    // Without an agent, nobody else would say so.
    pods::rules([&attachment]).map_err(|error| {
        Error::new(
            Code::Network,
            format!("invalid configuration for {attachment}"),
            error,
        )
    })?;
    Ok(attachment)
}

/// The pod's network namespace, which is not the host's.
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
