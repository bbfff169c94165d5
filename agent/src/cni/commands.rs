//! CHECK, DEL, GC and STATUS.

use hyper::Method;

use super::{
    add::open_netns,
    ask::{self, Verdict, warn},
    environment::Environment,
    error::{Code, Error},
    network::Network,
};
use crate::workloads::pods::{Directory, Id};

/// Fails unless an attachment is as ADD left it.
pub(super) fn check(environment: &Environment, network: &Network) -> Result<(), Error> {
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
        Verdict::Done => Ok(()),
        Verdict::Down(reason) if network.goes_on(&reason) => Ok(()),
        Verdict::Down(reason) => Err(Error::new(Code::Later, "the agent is down", reason)),
        Verdict::Unknown(reason) | Verdict::Refused(reason) => Err(missing(reason)),
    }
}

/// Forgets an attachment, and has the agent take away what is in place. Whatever fails is no reason to keep a pod
/// from going: the agent sees that the file is gone, and the data path ends with the namespace.
pub(super) fn del(environment: &Environment, network: &Network) {
    if let Err(error) = forget(network, &environment.id) {
        warn(&format!("{error:#}"));
    }
}

/// Forgets the network's attachments that the runtime does not know, and those whose namespace is gone.
pub(super) fn gc(network: &Network) -> Result<(), Error> {
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

/// Fails when no pod can be added. While pods start without the agent, all is well.
pub(super) fn status(network: &Network) -> Result<(), Error> {
    match ask::is_ready(network) {
        Verdict::Done => Ok(()),
        Verdict::Down(reason) if network.goes_on(&reason) => Ok(()),
        Verdict::Down(reason) | Verdict::Unknown(reason) | Verdict::Refused(reason) => {
            Err(Error::new(Code::Unavailable, "the agent is down", reason))
        }
    }
}

fn forget(network: &Network, id: &Id) -> anyhow::Result<()> {
    Directory::new(&network.pods).remove(id)?;
    match ask::ask(network, Method::DELETE, id) {
        Verdict::Done => {}
        // The agent looks at the directory when it starts.
        Verdict::Down(reason) | Verdict::Unknown(reason) | Verdict::Refused(reason) => {
            warn(&format!("{id}: {reason}"));
        }
    }
    Ok(())
}
