//! `truepeer peer`

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use clap::ArgGroup;

use super::{
    arguments::ReadArgs,
    output::{Columns, Format, print, print_json},
    peers::{pod, process},
    reader::Reader,
};
use crate::{
    connections::peers::Peer,
    host::{netns::Netns, processes::Owners, sockets},
};

/// Show one connection and its true client
///
/// Addresses are those of this command's network namespace: for a connection of a pod, run it there
/// (`ip netns exec`, `nsenter`), or use the cookie.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group(ArgGroup::new("connection").required(true).args(["cookie", "local"])))]
#[command(after_help = "\
Examples:
  truepeer peer --cookie 4242
  truepeer peer --local 10.0.0.3:8080 --remote 203.0.113.7:51812
  truepeer peer --local '[2001:db8::3]:8080' --remote '[2001:db8::7]:51812' -o json")]
pub(super) struct Args {
    /// The socket's cookie (SO_COOKIE)
    #[arg(long, value_name = "N", conflicts_with = "remote")]
    cookie: Option<u64>,

    /// The socket's own end
    #[arg(long, value_name = "ADDRESS:PORT", requires = "remote")]
    local: Option<SocketAddr>,

    /// The socket's other end
    #[arg(long, value_name = "ADDRESS:PORT", requires = "local")]
    remote: Option<SocketAddr>,

    #[command(flatten)]
    read: ReadArgs,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let reader = Reader::new(&args.read)?;
    let peer = reader.read(&path(args), |origins, names| {
        let cookie = match (args.cookie, args.local, args.remote) {
            (None, Some(local), Some(remote)) => {
                sockets::cookie(&Netns::current()?, local, remote)?
            }
            (cookie, ..) => cookie,
        };
        let unknown = "no origin is known for this connection";
        let cookie = cookie.context(unknown)?;
        let origin = origins.get(cookie)?.context(unknown)?;
        let owners = Owners::snapshot()?;
        let viewer = reader.viewer(names, &owners);
        viewer.one(cookie, &origin)?.context(unknown)
    })?;
    match args.read.output.output {
        Format::Json => print_json(&peer),
        Format::Table => print(&table(&peer)?),
    }
}

/// The request that asks for the connection.
fn path(args: &Args) -> String {
    // `[` and `]` are reserved in a query (RFC 3986).
    let end = |end: Option<SocketAddr>| {
        end.map(|end| end.to_string().replace('[', "%5B").replace(']', "%5D"))
            .unwrap_or_default()
    };
    match args.cookie {
        Some(cookie) => format!("/v1/peer?cookie={cookie}"),
        None => format!(
            "/v1/peer?local={}&remote={}",
            end(args.local),
            end(args.remote)
        ),
    }
}

fn table(peer: &Peer) -> Result<String> {
    let proxy = peer.proxy.as_ref().map(serde_json::to_string).transpose()?;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let rows = [
        ("client", peer.client.to_string()),
        ("original dst", peer.original_dst.to_string()),
        ("local", peer.local.to_string()),
        ("remote", peer.remote.to_string()),
        ("evidence", peer.evidence.clone()),
        ("proxy header", or_dash(proxy)),
        ("trusted by", peer.trusted_by.clone()),
        ("process", process(peer)),
        ("pod", pod(peer)),
        ("cgroup", or_dash(peer.cgroup.clone())),
        ("netns", or_dash(peer.netns.map(|inode| inode.to_string()))),
        ("since", peer.since.clone()),
        ("cookie", peer.cookie.to_string()),
    ]
    .map(|(name, value)| vec![name.to_owned(), value]);
    let columns = Columns::new(&["", ""], &rows);
    Ok(rows.iter().map(|row| columns.line(row)).collect())
}
