//! Forged TOA: somebody sends packets in the name of a load balancer, a great many of them, beside what is
//! true.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use agent_common::Counter;
use anyhow::{Result, ensure};
use tests::agent::records::no_origins;
use tests::clients::raw::{Raw, toa as option};
use tests::host::scenario;
use tests::topology::{Family, Gateway};
use tests::variables::{connections, usual};

use crate::stage::{APPLICATION, BALANCERS, Hosts, ONE, STRANGERS, accepted, epoch};

const PLAYGROUND: &str = env!("CARGO_BIN_EXE_playground");
/// How many SYNs are forged if nobody wants another number.
const ENOUGH: u32 = 20_000;
/// Every so many of them become connections.
const COMPLETED: u32 = 997;
/// Ports of each forger.
const PORTS: u32 = 60_000;
/// The gateway's address on the server's side.
const GATEWAY: &str = "10.78.0.1/32";

/// The n-th of the forgers, who are all of a load balancer's network.
fn source(n: u32) -> SocketAddr {
    let address = Family::V4.balancer((n % 254 + 1) as u8);
    (address, 1024 + (n / 254 % PORTS) as u16).into()
}

/// What the n-th of them says: TOA without a tag, or with one by another key, by no key, or of a time that is
/// past.
fn options(n: u32, past: u64) -> Vec<u8> {
    let client = SocketAddr::from(([203, 0, 113, (n % 251 + 1) as u8], 666));
    let now = past + 3;
    let mut options = option(254, client);
    options.extend(match n % 4 {
        0 => Vec::new(),
        1 => STRANGERS.tag(client, n, now),
        2 => ONE.tag(client, n.wrapping_add(1), now),
        _ => ONE.tag(client, n, past),
    });
    options
}

/// Forges while the gateway's proxy tells the truth.
fn beside_honest_ones(mode: &str, signers: &[&str], sources: &[&str], reasons: &[Counter]) {
    scenario(|directory| {
        let number = connections()?.unwrap_or_else(|| usual(ENOUGH));
        let hosts = Hosts::new(directory, PLAYGROUND, signers, sources)?;
        let client = &hosts.gateway.client;
        let target = (Gateway::server(Family::V4), APPLICATION).into();
        let past = epoch() - 3;
        let load = hosts.load(Family::V4);
        let (started, is_over) = (Instant::now(), AtomicBool::new(false));
        let mut honest = 0;
        std::thread::scope(|scope| -> Result<()> {
            let forger = scope.spawn(|| {
                let forged = (|| {
                    let raw = Raw::new(client)?;
                    (0..number).try_for_each(|n| raw.syn(source(n), target, n, &options(n, past)))
                })();
                is_over.store(true, Ordering::Relaxed);
                forged
            });
            while honest == 0 || !is_over.load(Ordering::Relaxed) {
                load.run(client).all_exact()?;
                honest += load.connections as u64;
            }
            forger.join().expect("the forger does not panic")
        })?;
        // Another socket, whose buffer is not full of answers that nobody read.
        let raw = Raw::new(client)?;
        for n in (number..).step_by(COMPLETED as usize).take(20) {
            let mut connection = raw.connect(source(n), target, n, &options(n, past))?;
            let seen = accepted(&mut connection)?;
            ensure!(seen == source(n), "{} was seen as {seen}", source(n));
            connection.reset()?;
        }
        load.run(client).all_exact()?;
        honest += load.connections as u64;

        let learnt = hosts.reads.counter(Counter::LearntToa)?;
        ensure!(learnt == honest, "{learnt} of {honest} were learnt");
        let refused = reasons
            .iter()
            .map(|reason| Ok((reason.name(), hosts.reads.counter(*reason)?)))
            .collect::<Result<Vec<_>>>()?;
        println!(
            "{mode}: {number} forged SYNs in {:.1} s: believed 0, refused {refused:?}; {honest} honest \
             connections beside them: wrong 0, unknown 0, failed 0",
            started.elapsed().as_secs_f64()
        );
        // The kernel drops what comes too fast, before it is read.
        let read: u64 = refused.iter().map(|(_, number)| number).sum();
        ensure!(read > u64::from(number / 2), "only {read} were read");
        no_origins(&hosts.reads)
    });
}

#[test]
fn forged_from_a_network_that_signs() {
    let reasons = [Counter::ToaUnsigned, Counter::ToaForged];
    beside_honest_ones("signed", &[GATEWAY, BALANCERS[0]], &[], &reasons);
}

#[test]
fn forged_from_a_network_that_is_not_trusted() {
    beside_honest_ones("unsigned", &[], &[GATEWAY], &[Counter::ToaUntrusted]);
}
