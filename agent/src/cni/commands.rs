//! The commands CHECK, DEL, GC and STATUS.

use hyper::Method;

use super::{
    add::open_netns,
    ask::{self, AgentReply, warn},
    environment::Environment,
    error::{Code, Error},
    netconf::NetConf,
};
use crate::workloads::pods::{Directory, Id};

/// CHECK: fails unless everything is as ADD left it.
pub(super) fn check(environment: &Environment, network: &NetConf) -> Result<(), Error> {
    network.prev_result()?;
    let id = &environment.id;
    let unknown = |reason: String| Error::new(Code::Container, "unknown container", reason);
    let attachment = Directory::new(&network.pods).read(id)?;
    let attachment = attachment.ok_or_else(|| unknown(format!("{id} was never added")))?;
    let missing = |reason: String| {
        Error::new(
            Code::Missing,
            format!("{attachment} is not as it was"),
            reason,
        )
    };
    let netns = open_netns(environment)?;
    if netns.cookie() != attachment.netns_cookie {
        let path = environment.netns.display();
        return Err(missing(format!("{path} is another network namespace")));
    }
    netns
        .interface_index(&id.ifname)
        .map_err(|error| missing(error.to_string()))?;
    match ask::ask(network, Method::GET, id) {
        AgentReply::Done => Ok(()),
        // Without an agent nobody knows whether what the pod asks for is in place.
        AgentReply::Down(reason) => Err(Error::new(Code::Later, "the agent is down", reason)),
        AgentReply::Unknown(reason) | AgentReply::Refused(reason) => Err(missing(reason)),
    }
}

/// DEL: removes the file of an attachment, and asks the agent to let go of it. No failure may keep a pod from going: the
/// agent notices by itself that the file is gone, and the data path ends with the namespace.
pub(super) fn del(environment: &Environment, network: &NetConf) {
    if let Err(error) = forget(network, &environment.id) {
        warn(&format!("{error:#}"));
    }
}

/// GC: forgets the network's attachments that the runtime does not know, and those whose namespace is gone.
pub(super) fn gc(network: &NetConf) -> Result<(), Error> {
    let valid = network.valid_attachments()?;
    let directory = Directory::new(&network.pods);
    let mut failures = Vec::new();
    for id in directory.ids()? {
        let collected = directory.read(&id).and_then(|attachment| match attachment {
            Some(found) if found.network != network.name => Ok(()),
            Some(found) if valid.contains(&id) && found.open_netns()?.is_some() => Ok(()),
            _ => forget(network, &id),
        });
        failures.extend(collected.err().map(|error| format!("{error:#}")));
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Code::Io,
        "cannot remove all that is stale",
        failures.join("; "),
    ))
}

/// STATUS: fails when no pod can be added. All is well where pods may start without the agent.
pub(super) fn status(network: &NetConf) -> Result<(), Error> {
    match ask::is_ready(network) {
        AgentReply::Done => Ok(()),
        AgentReply::Down(reason) if network.goes_on(&reason) => Ok(()),
        AgentReply::Down(reason) | AgentReply::Unknown(reason) | AgentReply::Refused(reason) => {
            Err(Error::new(Code::Unavailable, "the agent is down", reason))
        }
    }
}

/// Removes the file of an attachment, and tells the agent.
fn forget(network: &NetConf, id: &Id) -> anyhow::Result<()> {
    Directory::new(&network.pods).remove(id)?;
    match ask::ask(network, Method::DELETE, id) {
        AgentReply::Done => {}
        // An agent that does not answer looks at the directory when it starts.
        AgentReply::Down(reason) | AgentReply::Unknown(reason) | AgentReply::Refused(reason) => {
            warn(&format!("{id}: {reason}"));
        }
    }
    Ok(())
}
