//! Signed TOA tells who sends a PROXY header.

use std::net::SocketAddr;
use std::path::Path;

use agent_common::Counter;
use agent_common::unwrap::stream::{ACK, SYN};
use anyhow::{Context, Result, ensure};
use tests::agent::records::{no_origins, none_refused};
use tests::agent::{Agent, Config, Trust, Unwrap};
use tests::clients::raw::{Pinned, toa as option};
use tests::host::{iptables, scenario};
use tests::model::Packet;
use tests::proxies::proxy_header::v2;
use tests::topology::{Family, Sidecar};

use super::stage::{Stage, client, config, source};
use crate::stage::{APPLICATION, KeyFile, ONE, STRANGERS, accepted, epoch};

/// Takes the headers of the client off whom load balancers name.
fn unwrapping(directory: &Path, stage: &Stage, keys: &KeyFile) -> Result<Config> {
    let mut config = config(directory, keys)?;
    let edge = [(Family::V4, 32), (Family::V6, 128)];
    let edge = edge.map(|(family, bits)| format!("{}/{bits}", client(family).ip()));
    config.trust.extend(Trust::saying(&["proxy"], edge));
    let port = APPLICATION.to_string();
    config.unwrap = vec![Unwrap::new(
        &stage.topology.pod,
        Sidecar::INTERFACE,
        &[&port],
    )];
    Ok(config)
}

/// Once for each tag, and nobody without one.
#[test]
fn a_signer_tells_who_sends_a_header() {
    scenario(|directory| {
        let stage = Stage::new()?;
        let keys = KeyFile::new(directory, "keys", &[ONE])?;
        let balancer = client(Family::V4);
        let config = unwrapping(directory, &stage, &keys)?;
        let agent = Agent::start(directory, config)?;
        let named: SocketAddr = (Family::V4.client(5), 4712).into();
        let target = (Sidecar::address(Family::V4), APPLICATION).into();
        let mut port = 40_000;
        for cookies in ["0", "2"] {
            stage.cookies(cookies)?;
            let mut opens = |isn, options: &[u8]| {
                port += 1;
                let from = source(Family::V4, port);
                let told = (|| {
                    let mut connection = stage.connect(from, isn, options)?;
                    connection.send(&v2(named, target))?;
                    let told = accepted(&mut connection)?;
                    connection.reset()?;
                    anyhow::Ok(told)
                })();
                (from, told)
            };
            epoch();
            let isn = u32::from(cookies == "2") << 20 | 0x1000;
            let signed = ONE.signed(balancer, isn, 0);
            let (_, told) = opens(isn, &signed);
            let told = told.with_context(|| format!("signed, syncookies {cookies}"))?;
            ensure!(told == named, "{named} is told as {told}");
            let untrusted = agent.counter(Counter::UnwrapUntrusted)?;
            let forgeries = [
                signed,
                option(254, balancer),
                STRANGERS.signed(balancer, isn + 1, 0),
            ];
            for (n, options) in (0..).zip(&forgeries) {
                let isn = if n == 0 { isn } else { isn + 1 };
                let (from, told) = opens(isn, options);
                ensure!(told.is_err(), "{from}, forgery {n}: {told:?}");
            }
            let untrusted = agent.counter(Counter::UnwrapUntrusted)? - untrusted;
            ensure!(untrusted == 3, "{untrusted} of 3 were refused");
        }
        no_origins(&agent)
    });
}

/// The network repeats a SYN when the header has come, while the handshake goes on: its tag proves nothing any more, and need not.
#[test]
fn a_syn_that_comes_again_behind_its_header() {
    scenario(|directory| {
        let stage = Stage::new()?;
        let keys = KeyFile::new(directory, "keys", &[ONE])?;
        let agent = Agent::start(directory, unwrapping(directory, &stage, &keys)?)?;
        let pod = &stage.topology.pod;
        for family in Family::ALL {
            const ISN: u32 = 1 << 20;
            let from = source(family, 40_000);
            let named = SocketAddr::new(family.client(5), 4712);
            let target = (Sidecar::address(family), APPLICATION).into();
            epoch();
            let signed = ONE.signed(client(family), ISN, 0);
            let header = v2(named, target);
            let mut connection = stage.connect(from, ISN, &signed)?;
            // The agent reads the header, and the server gets nothing.
            let rule = format!("-p tcp --dport {APPLICATION} ! --syn -j DROP");
            iptables::restore(pod, directory, |_| {
                format!("*filter\n-A INPUT {rule}\nCOMMIT\n")
            })?;
            {
                let _pinned = Pinned::here()?;
                connection.send_ahead(0, &header)?;
                stage.raw.answers(from, target)?;
                stage.raw.syn(from, target, ISN, &signed)?;
                let answers = stage.raw.answers(from, target)?;
                // The server's timer may repeat the SYN-ACK as well.
                let is_repeated =
                    |answer: &Packet| answer.flags == SYN | ACK && answer.acknowledgment == ISN + 1;
                ensure!(
                    !answers.is_empty() && answers.iter().all(is_repeated),
                    "{family:?}: {answers:?}"
                );
            }
            iptables::restore(pod, directory, |_| "*filter\nCOMMIT\n".into())?;
            connection.send(&header)?;
            let told = accepted(&mut connection)?;
            ensure!(told == named, "{named} is told as {told}");
            connection.reset()?;
        }
        none_refused(&agent)?;
        no_origins(&agent)
    });
}
