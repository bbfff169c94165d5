//! The table: whom the application saw, before and after.

use anyhow::Result;
use tests::agent::Agent;
use tests::clients::load::Connection;
use tests::table;

/// A way with truepeer, and what is expected of it.
pub(crate) struct After {
    /// The row's name.
    pub(crate) name: String,
    /// What became of the connection.
    pub(crate) connection: Result<Connection>,
    /// How truepeer knows the client.
    pub(crate) evidence: &'static str,
    /// Whether the application sees the client's port too.
    pub(crate) keeps_port: bool,
}

/// Prints a row for each way; whether all are right.
pub(crate) fn print(before: &[Connection], after: &[After], agent: &Agent) -> Result<bool> {
    const HEADER: [&str; 6] = [
        "path",
        "client",
        "before: application saw",
        "after: application saw",
        "evidence",
        "ok",
    ];
    let peers = agent.peers()?;
    let mut rows = vec![HEADER.map(String::from)];
    let mut errors = Vec::new();
    let mut good = true;
    for (before, after) in before.iter().zip(after) {
        let name = &after.name;
        let (client, saw, evidence, right) = match &after.connection {
            Err(error) => {
                errors.push(format!("{name}: {error:#}"));
                ("-".into(), "failed".into(), "-".into(), false)
            }
            Ok(Connection { client, seen, .. }) => {
                let evidence = peers
                    .0
                    .iter()
                    .find(|peer| peer.local == seen.local && peer.client == seen.accepted)
                    .map_or("unknown".into(), |peer| peer.evidence.clone());
                let kept = seen.accepted.ip() == client.ip() && seen.peername == seen.accepted;
                let lost = before.seen.accepted.ip() != before.client.ip();
                let exact = !after.keeps_port || seen.accepted == *client;
                let right = kept && lost && exact && evidence == after.evidence;
                (
                    client.to_string(),
                    seen.accepted.to_string(),
                    evidence,
                    right,
                )
            }
        };
        good &= right;
        let verdict = if right { "yes" } else { "NO" };
        let before = before.seen.accepted.to_string();
        rows.push([name.clone(), client, before, saw, evidence, verdict.into()]);
    }
    table::print(&rows);
    for error in errors {
        println!("{error}");
    }
    println!(
        "\nBesides the client's address, a gateway's proxy keeps its port; a sidecar's proxy cannot, \
         because\nthe application is in its own namespace. A proxy that binds spoofs nothing, and keeps \
         the port\nanywhere: it has no capability, and the application is told by truepeer."
    );
    Ok(good)
}
