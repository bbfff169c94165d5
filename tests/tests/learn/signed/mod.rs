//! Signed TOA: what is proven by the cluster's key is believed, once, and nothing else.

mod header;
mod stage;

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agent_common::Counter;
use agent_common::tag::EPOCH;
use anyhow::{Context, Result, ensure};
use tests::agent::records::no_origins;
use tests::agent::{Agent, Policy, Trust, binary};
use tests::clients::raw::{LINUX, toa as option};
use tests::host::scenario;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

use self::stage::{Stage, client, config, source};
use crate::stage::{APPLICATION, BALANCERS, KeyFile, ONE, STRANGERS, TWO, accepted, epoch};

#[test]
fn what_a_signer_writes() {
    scenario(|directory| {
        let stage = Stage::new()?;
        let keys = KeyFile::new(directory, "keys", &[ONE, TWO])?;
        let agent = Agent::start(directory, config(directory, &keys)?)?;
        let (mut n, mut believed) = (0, 0);
        for cookies in ["0", "2"] {
            stage.cookies(cookies)?;
            for (family, network) in Family::ALL.into_iter().zip(BALANCERS) {
                for (key, epochs) in [(ONE, 0), (ONE, -1), (ONE, 1), (TWO, 0), (TWO, -1), (TWO, 1)]
                {
                    n += 1;
                    let (client, source) = (client(family), source(family, 40_000 + n));
                    let isn = u32::from(n) << 16;
                    let mut options = key.signed(client, isn, epochs);
                    if family == Family::V4 {
                        options = [&LINUX[..], &options].concat();
                    }
                    let mut connection = stage.connect(source, isn, &options)?;
                    let seen = accepted(&mut connection)?;
                    ensure!(seen == client, "{epochs}, {cookies}: {client} is {seen}");
                    let peers = agent.peers()?;
                    let target = (Sidecar::address(family), APPLICATION).into();
                    let peer = peers.find(target, source).context("no origin")?;
                    let rule = format!("source {network}");
                    ensure!(
                        peer.evidence == "toa" && peer.trusted_by == rule,
                        "{peer:?}"
                    );
                    connection.reset()?;
                    believed += 1;
                }
            }
        }
        ensure!(agent.counter(Counter::LearntToa)? == believed, "counted");
        no_origins(&agent)
    });
}

#[test]
fn what_is_not_believed() {
    scenario(|directory| {
        let stage = Stage::new()?;
        let keys = KeyFile::new(directory, "keys", &[ONE])?;
        let mut config = config(directory, &keys)?;
        // One of the load balancers cannot sign.
        let exempt = SocketAddr::from((Family::V4.balancer(200), 40_000));
        config
            .trust
            .extend(Trust::sources([format!("{}/32", exempt.ip())]));
        let agent = Agent::start(directory, config)?;
        let mut port = 40_000;
        for (cookies, family) in [("0", Family::V4), ("2", Family::V4), ("0", Family::V6)] {
            stage.cookies(cookies)?;
            let client = client(family);
            let other = SocketAddr::new(family.client(77), client.port());
            let toa = option(254, client);
            let with = |tag: Vec<u8>| [&toa[..], &tag].concat();
            const ISN: u32 = 7;
            let tag = ONE.tag(client, ISN, epoch());
            let mut strange = tag.clone();
            strange[3] ^= 1;
            for (reason, options) in [
                (Counter::ToaUnsigned, toa.clone()),
                (Counter::ToaUnsigned, with(strange)),
                (
                    Counter::ToaForged,
                    with(STRANGERS.tag(client, ISN, epoch())),
                ),
                (Counter::ToaForged, with(TWO.tag(client, ISN, epoch()))),
                (Counter::ToaForged, with(ONE.tag(client, ISN + 1, epoch()))),
                (Counter::ToaForged, with(ONE.tag(other, ISN, epoch()))),
                (Counter::ToaForged, ONE.signed(client, ISN, -2)),
                (Counter::ToaForged, ONE.signed(client, ISN, -4)),
                (Counter::ToaForged, ONE.signed(client, ISN, 2)),
            ] {
                port += 1;
                stage
                    .refused(&agent, reason, source(family, port), ISN, &options)
                    .with_context(|| format!("{options:?}, syncookies {cookies}"))?;
            }
        }
        ensure!(agent.counter(Counter::LearntToa)? == 0, "believed");
        let client = client(Family::V4);
        let seen = stage.seen(exempt, 7, &option(254, client))?;
        ensure!(
            seen == client,
            "{client}, told by a source, was seen as {seen}"
        );
        no_origins(&agent)
    });
}

#[test]
fn a_tag_is_used_once() {
    scenario(|directory| {
        let stage = Stage::new()?;
        let keys = KeyFile::new(directory, "keys", &[ONE])?;
        let mut agent = Agent::start(directory, config(directory, &keys)?)?;
        let family = Family::V4;
        let client = client(family);
        let replayed = Counter::ToaReplayed;
        for (n, cookies) in ["0", "2"].into_iter().enumerate() {
            stage.cookies(cookies)?;
            let (isn, port) = (1000 * (n as u32 + 1), 41_000 + 100 * n as u16);
            let (first, thief) = (source(family, port), source(family, port + 1));
            let target = (Sidecar::address(family), APPLICATION).into();

            // A SYN comes again, first unchanged and then signed anew.
            let options = ONE.signed(client, isn, 0);
            let later = ONE.signed(client, isn, 1);
            stage.raw.syn(first, target, isn, &options)?;
            stage.refused(&agent, replayed, thief, isn, &options)?;
            stage.raw.syn(first, target, isn, &options)?;
            let mut connection = stage.connect(first, isn, &later)?;
            let seen = accepted(&mut connection)?;
            ensure!(seen == client, "{client} was seen as {seen}");

            // Its tags are used up, while the connection lives and afterwards.
            let mut port = port + 2;
            let mut steal = |agent: &Agent, options| {
                port += 1;
                stage.refused(agent, replayed, source(family, port), isn, options)
            };
            steal(&agent, &options)?;
            steal(&agent, &later)?;
            connection.reset()?;
            stage.refused(&agent, replayed, first, isn, &options)?;
            stage.refused(&agent, replayed, first, isn, &later)?;

            // They stay used up when the agent has been away.
            agent = Agent::start(directory, agent.kill()?)?;
            steal(&agent, &options)?;
            steal(&agent, &later)?;
        }
        ensure!(agent.counter(Counter::LearntToa)? == 2, "believed");

        // Without an agent, the next connection is believed all the same.
        let config = agent.kill()?;
        let seen = stage.seen(source(family, 45_000), 1, &ONE.signed(client, 1, 0))?;
        ensure!(seen == client, "{client} was seen as {seen}");
        no_origins(&Agent::start(directory, config)?)
    });
}

/// Kills the agent, and starts another on the same data path, for which the epoch is `wanted`.
fn restart_in(wanted: u64, agent: Agent, directory: &Path) -> Result<Agent> {
    let config = agent.kill()?;
    // Programs have the host's CLOCK_BOOTTIME, from which the agent says how far wall-clock time is ahead.
    let behind = (wanted as i64 - epoch() as i64) * (EPOCH / 1_000_000_000) as i64;
    let wrapper = directory.join("truepeer");
    let binary = binary()?;
    // Linux 6.1 leaves a program that is executed in the former namespace, unless it enters the new one itself.
    let enter = "nsenter --time=/proc/self/ns/time_for_children";
    let script = format!(
        "#!/bin/sh\nexec unshare --time --boottime={} {enter} {} \"$@\"\n",
        -behind,
        binary.display()
    );
    std::fs::write(&wrapper, script)?;
    std::fs::set_permissions(&wrapper, Permissions::from_mode(0o755))?;
    Agent::start_binary(&wrapper, directory, config)
}

#[test]
fn a_tag_is_remembered_while_it_is_valid() {
    scenario(|directory| {
        let stage = Stage::new()?;
        let keys = KeyFile::new(directory, "keys", &[ONE])?;
        let agent = Agent::start(directory, config(directory, &keys)?)?;
        // The last of these epochs is the present one, as no clock goes back to before the machine started.
        let start = epoch() - 3;
        let agent = restart_in(start, agent, directory)?;
        let client = client(Family::V4);
        let options = |isn, epoch| [option(254, client), ONE.tag(client, isn, epoch)].concat();
        let source = |port| source(Family::V4, port);
        let target = (Sidecar::address(Family::V4), APPLICATION).into();
        let believed = |port, isn, epoch| -> Result<()> {
            let seen = stage.seen(source(port), isn, &options(isn, epoch))?;
            ensure!(seen == client, "{port}: {client} was seen as {seen}");
            Ok(())
        };
        // Of these the second is sent again, signed anew, until the connection is made.
        believed(40_001, 1, start)?;
        stage
            .raw
            .syn(source(40_002), target, 2, &options(2, start))?;
        let agent = restart_in(start + 2, agent, directory)?;
        let refuse = |agent: &Agent, reason, port, isn, epoch| {
            stage.refused(agent, reason, source(port), isn, &options(isn, epoch))
        };
        refuse(&agent, Counter::ToaForged, 40_011, 1, start)?;
        refuse(&agent, Counter::ToaReplayed, 40_012, 1, start + 1)?;
        believed(40_002, 2, start + 2)?;

        // Each new tag makes the agent forget older ones.
        let agent = restart_in(start + 3, agent, directory)?;
        for n in 3..6 {
            believed(40_000 + n, n.into(), start + 3)?;
        }
        refuse(&agent, Counter::ToaReplayed, 40_021, 2, start + 2)?;
        refuse(&agent, Counter::ToaReplayed, 40_022, 2, start + 3)?;

        // Were the clock set back, what has expired would prove something again.
        let agent = restart_in(start, agent, directory)?;
        believed(40_031, 1, start)?;
        refuse(&agent, Counter::ToaReplayed, 40_032, 2, start)
    });
}

#[test]
fn policies_believe_no_forgery() {
    scenario(|directory| {
        const POLICY: &str = "clients";
        let stage = Stage::new()?;
        let keys = KeyFile::new(directory, "keys", &[ONE])?;
        let mut config = config(directory, &keys)?;
        config.policy.push(Policy {
            name: POLICY.into(),
            ports: vec![APPLICATION.to_string()],
            allow: vec!["203.0.113.0/24".into()],
            deny: Vec::new(),
        });
        let agent = Agent::start(directory, config)?;
        let (client, target) = (
            client(Family::V4),
            (Sidecar::address(Family::V4), APPLICATION).into(),
        );
        let options = ONE.signed(client, 1, 0);
        let seen = stage.seen(source(Family::V4, 40_001), 1, &options)?;
        ensure!(seen == client, "{client} was seen as {seen}");
        ensure!(agent.tally(POLICY)? == (1, 0), "{:?}", agent.tally(POLICY)?);
        for (port, isn, options) in [
            (40_001, 1, options.clone()),
            (40_002, 1, options),
            (40_003, 2, option(254, client)),
            (40_004, 3, TWO.signed(client, 3, 0)),
        ] {
            stage
                .raw
                .syn(source(Family::V4, port), target, isn, &options)?;
        }
        eventually("what is not proven is refused", || {
            Ok((agent.tally(POLICY)? == (1, 4)).then_some(()))
        })
        .with_context(|| format!("{:?}", agent.tally(POLICY)))
    });
}
