//! Signed TOA between hosts: keys that are replaced, addresses that leave no room for a tag, and a node's NAT
//! between.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use agent_common::Counter;
use agent_common::names::map;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::agent::records::no_origins;
use tests::agent::{Agent, Carry, Config, Reveal, Trust};
use tests::clients::load::Load;
use tests::clients::raw::Raw;
use tests::cluster::kube_proxy::Mode;
use tests::cluster::nodes::{Cluster, NODES, Node, REPORT};
use tests::host::scenario;
use tests::proxies::any;
use tests::servers::report::Report;
use tests::topology::Family;
use tests::wait::eventually;

use crate::stage::{Hosts, Key, KeyFile, ONE, STRANGERS, TWO, accepted, epoch};

const PLAYGROUND: &str = env!("CARGO_BIN_EXE_playground");

/// The agent has other keys from now on.
fn replace(agent: &Agent, file: &mut KeyFile, keys: &[Key]) -> Result<()> {
    let said = format!("keys read again: {}", file.path().display());
    agent.says(&said, || file.put(keys))
}

fn all_exact(hosts: &Hosts) -> Result<()> {
    for family in Family::ALL {
        hosts.load(family).run(&hosts.gateway.client).all_exact()?;
    }
    Ok(())
}

#[test]
fn keys_are_replaced_without_a_gap() {
    scenario(|directory| {
        // IPv6 has no room for a tag, so that the server has to trust the gateway without.
        let sources = &["fd78::1/128"];
        let mut hosts = Hosts::new(directory, PLAYGROUND, &["10.78.0.1/32"], sources)?;
        all_exact(&hosts)?;
        replace(&hosts.reads, &mut hosts.verifying, &[ONE, TWO])?;
        all_exact(&hosts)?;
        replace(&hosts.sends, &mut hosts.signing, &[TWO, ONE])?;
        all_exact(&hosts)?;
        replace(&hosts.reads, &mut hosts.verifying, &[TWO])?;
        all_exact(&hosts)?;
        let refused = |agent: &Agent| agent.counter(Counter::ToaForged);
        ensure!(refused(&hosts.reads)? == 0, "a tag was refused");

        // A file that is broken or gone changes nothing, and is told without the keys.
        for text in [format!("{}\nno key\n", STRANGERS.line()), String::new()] {
            let (reads, file) = (&hosts.reads, &mut hosts.verifying);
            reads.says("the former keys stay: ", || file.write(&text))?;
            reads.says("the new configuration is not taken up", || {
                reads.signal(Signal::SIGHUP)
            })?;
        }
        all_exact(&hosts)?;
        let log = hosts.reads.log()?;
        for said in [
            "line 2 does not have 32 hexadecimal digits",
            "there is none",
        ] {
            ensure!(log.contains(said), "no {said:?} in:\n{log}");
        }
        let status = hosts.reads.status()?.to_string() + &log + &hosts.sends.log()?;
        for key in [ONE, TWO, STRANGERS] {
            ensure!(!status.contains(&key.line()), "a key was told: {status}");
        }
        let pins = std::fs::read_dir(&hosts.reads.config().agent.bpffs)?;
        let mut pins = pins.flatten().map(|entry| entry.path().join(map::KEYS));
        let pin = pins.find(|pin| pin.exists()).context("the keys' map")?;
        let mode = std::fs::metadata(&pin)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{} has mode {mode:o}", pin.display());

        // The gateway has a key that the server does not.
        replace(&hosts.reads, &mut hosts.verifying, &[ONE])?;
        replace(&hosts.sends, &mut hosts.signing, &[TWO])?;
        let v4 = hosts.load(Family::V4);
        // What is logged is in effect a moment later.
        let one = Load {
            connections: 1,
            concurrent: 1,
            ..v4.clone()
        };
        eventually("a tag is refused", || {
            one.run(&hosts.gateway.client);
            Ok((refused(&hosts.reads)? > 0).then_some(()))
        })?;
        let before = refused(&hosts.reads)?;
        v4.run(&hosts.gateway.client).all_lost()?;
        let counted = refused(&hosts.reads)? - before;
        ensure!(counted == v4.connections as u64, "{counted} were refused");
        no_origins(&hosts.reads)
    });
}

#[test]
fn ipv6_has_no_room_for_a_tag() {
    scenario(|directory| {
        let signers = &["10.78.0.1/32", "fd78::1/128"];
        let hosts = Hosts::new(directory, PLAYGROUND, signers, &[])?;
        let [v4, v6] = Family::ALL.map(|family| hosts.load(family));
        v4.run(&hosts.gateway.client).all_exact()?;
        ensure!(hosts.sends.counter(Counter::CarryUnsigned)? == 0, "IPv4");
        v6.run(&hosts.gateway.client).all_lost()?;
        let connections = v6.connections as u64;
        for (agent, counter, expected) in [
            (&hosts.sends, Counter::CarryUnsigned, connections),
            (&hosts.sends, Counter::CarriedToa, 2 * connections),
            (&hosts.reads, Counter::ToaUnsigned, connections),
            (&hosts.reads, Counter::ToaForged, 0),
        ] {
            let counted = agent.counter(counter)?;
            ensure!(counted == expected, "{}: {counted}", counter.name());
        }
        no_origins(&hosts.reads)
    });
}

#[test]
fn what_a_node_appends() {
    scenario(|directory| {
        let cluster = Cluster::new(directory, Mode::Nftables, 1)?;
        let [first, second] = &cluster.nodes;
        let _report = Report::start(&second.pod, any(REPORT.target))?;
        let keys = KeyFile::new(directory, "keys", &[ONE])?;
        let mut config = Config::new(directory, [])?;
        config.toa.keys = Some(keys.path().to_owned());
        config.reveal = Reveal {
            enabled: false,
            ..Reveal::default()
        };
        config.carry = Some(Carry {
            node: vec![first.carries(Node::UPLINK)],
            ..Carry::default()
        });
        let signs = Agent::start(directory, config)?;
        let mut config = Config::new(directory, [])?;
        let [v4, v6] = NODES.map(String::from);
        config.trust.extend(Trust::signers([v4]));
        config.trust.extend(Trust::sources([v6]));
        config.toa.keys = Some(keys.path().to_owned());
        let reads = Agent::start(directory, config)?;

        let load = Load::new(first.targets(REPORT));
        load.run(&cluster.client).all_exact()?;
        let half = load.connections as u64 / 2;
        let unsigned = signs.counter(Counter::CarryUnsigned)?;
        ensure!(unsigned == half, "{unsigned} of IPv6 had no room");

        // What a client claims is taken off, tags as well.
        let raw = Raw::new(&cluster.client)?;
        let [target, _] = first.targets(REPORT);
        let victim = (Family::V4.client(76), 4711).into();
        for (n, options) in [
            STRANGERS.signed(victim, 1, 0),
            STRANGERS.tag(victim, 2, epoch()),
            [ONE.signed(victim, 3, 0), ONE.tag(victim, 3, epoch())].concat(),
        ]
        .into_iter()
        .enumerate()
        {
            let isn = n as u32 + 1;
            let source = SocketAddr::new(Family::V4.balancer(1), 40_000 + isn as u16);
            let mut connection = raw.connect(source, target, isn, &options)?;
            let seen = accepted(&mut connection)?;
            ensure!(seen == source, "{source} was seen as {seen}");
            connection.reset()?;
        }
        for refused in [Counter::ToaUnsigned, Counter::ToaForged] {
            ensure!(reads.counter(refused)? == 0, "{}", refused.name());
        }
        no_origins(&reads)
    });
}
