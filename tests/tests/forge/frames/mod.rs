//! Frames of every kind that the kernel takes and that nobody sends: whatever they hide, the listener behind a node, a port
//! with unwrap, a policy and a steer believes nothing of it, and lets nobody in.
//!
//! The frames are written at random, and the kernel's own answers tell which of them it took.

mod disguise;
mod fuzzer;
mod segment;
mod watch;
mod wire;

use std::collections::HashSet;
use std::net::SocketAddr;

use agent_common::Counter;
use anyhow::{Result, bail, ensure};
use ipnet::IpNet;
use tests::agent::{Agent, Config, Policy, Steer, Trust, Unwrap};
use tests::cluster::kube_proxy::Mode;
use tests::cluster::nodes::{Cluster, NODES, Node, REPORT, agent};
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::proxies::proxy_header::v2;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

use self::disguise::{Disguise, OTHER_VLAN};
use self::fuzzer::{ENOUGH, FUZZER, Fuzzer, TARGET, number, sends};
use self::watch::Watch;

/// Ports of a pod: with nothing, with unwrap, with a policy, and with a steer to the last one.
const BARE: u16 = 8080;
const UNWRAPPED: u16 = 8081;
const GUARDED: u16 = 8082;
const STEERED: u16 = 8083;
const PROXY: u16 = 8084;
/// The number of the address that may send headers, which is none of those that send frames at random.
const TRUSTED: u8 = 250;
/// Length of packets on the cable.
const MTU: u32 = 9000;

/// Prepares both ends of a cable, and how fast `server` forgets half a handshake.
fn prepare(sender: &Netns, receiver: &Netns, server: &Netns) -> Result<()> {
    sender.ip(&format!("link set eth0 mtu {MTU} address {FUZZER}"))?;
    receiver.ip(&format!("link set eth0 mtu {MTU} address {TARGET}"))?;
    server.set_sysctl("net/ipv4/tcp_synack_retries", "0")
}

#[test]
fn to_a_pod() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let (client, pod) = (&sidecar.client, &sidecar.pod);
        prepare(client, pod, pod)?;
        let [bare, unwrapped, guarded, steered, proxy] =
            [BARE, UNWRAPPED, GUARDED, STEERED, PROXY].map(|port| Watch::start(pod, port));
        let steer = Steer::new("steer", pod, &[&STEERED.to_string()], PROXY).on(Sidecar::INTERFACE);
        let mut config = Config::new(directory, [steer])?;
        let trusted = Family::ALL.map(|family| IpNet::from(family.balancer(TRUSTED)));
        config.trust.extend(Trust::saying(&["proxy"], trusted));
        config.unwrap.push(Unwrap::new(
            pod,
            Sidecar::INTERFACE,
            &[&UNWRAPPED.to_string()],
        ));
        config.policy.push(Policy {
            name: "deny".into(),
            ports: vec![GUARDED.to_string()],
            deny: vec!["0.0.0.0/0".into(), "::/0".into()],
            ..Policy::default()
        });
        let targets = |ports: &[u16]| -> Vec<SocketAddr> {
            let of =
                |port: &u16| Family::ALL.map(|family| (Sidecar::address(family), *port).into());
            ports.iter().flat_map(of).collect()
        };
        let number = number()?;
        // Frames that the kernel takes, or nothing would be shown.
        let mut fuzzer = Fuzzer::new(client, "eth0", targets(&[BARE]))?;
        fuzzer.run(number.min(ENOUGH) / 4)?;
        ensure!(
            fuzzer.unanswered() == [OTHER_VLAN],
            "not taken: {:?}",
            fuzzer.unanswered()
        );
        all_answered(&fuzzer, &bare?.seen())?;

        let agent = Agent::start(directory, config)?;
        fuzzer.turn_to(targets(&[UNWRAPPED, GUARDED, STEERED]));
        fuzzer.run(number)?;
        let unwrapped = unwrapped?;
        for (watch, what) in [
            (&unwrapped, "a port with unwrap"),
            (&guarded?, "a port with a policy"),
            (&steered?, "an application beside its proxy"),
        ] {
            let seen = watch.seen();
            ensure!(
                seen.is_empty(),
                "{what} accepted {}: {:?}",
                seen.len(),
                seen.first()
            );
        }
        let steered = proxy?.seen();
        ensure!(!steered.is_empty(), "the proxy accepted nobody");
        all_answered(&fuzzer, &steered)?;
        let hidden = agent.counter(Counter::UnwrapHidden)?;
        ensure!(hidden > 0, "nothing was dropped");
        // Whom a rule believes is heard, with a priority as without.
        for (n, disguise) in [Disguise::default(), Disguise::priority()]
            .iter()
            .enumerate()
        {
            for family in Family::ALL {
                let source = (family.balancer(TRUSTED), 1024 + n as u16).into();
                let target = (Sidecar::address(family), UNWRAPPED).into();
                let named = (family.client(n), 4711).into();
                fuzzer.connect(disguise, source, target, &v2(named, target))?;
                let what = format!("{named} is seen, whom {source} names");
                eventually(&what, || {
                    Ok(unwrapped.seen().contains(&named).then_some(()))
                })?;
            }
        }
        Ok(())
    });
}

/// Fails unless those who were seen are those whose frames were answered.
fn all_answered(fuzzer: &Fuzzer, seen: &[SocketAddr]) -> Result<()> {
    let answered: HashSet<_> = fuzzer.answered.iter().map(|(source, _)| *source).collect();
    let stranger = seen.iter().find(|peer| !answered.contains(peer));
    ensure!(
        stranger.is_none(),
        "{stranger:?} was seen, who sent nothing"
    );
    Ok(())
}

#[test]
fn to_a_node() {
    scenario(|directory| {
        let cluster = Cluster::new(directory, Mode::Iptables, 1)?;
        let [first, second] = &cluster.nodes;
        prepare(&cluster.client, &first.netns, &second.pod)?;
        cluster.set_mtu(MTU)?;
        for (key, value) in [("syn_sent", "1"), ("syn_recv", "1"), ("close", "1")] {
            let key = format!("net/netfilter/nf_conntrack_tcp_timeout_{key}");
            first.netns.set_sysctl(&key, value)?;
        }
        let watch = Watch::start(&second.pod, REPORT.target)?;
        let firsts = agent(directory, &[first], |config| config.reveal.enabled = false)?;
        let _seconds = agent(directory, &[second], |config| {
            config.trust.extend(Trust::saying(&["toa"], NODES));
        })?;
        let targets = first.targets(REPORT).to_vec();
        let mut fuzzer = Fuzzer::new(&cluster.client, Node::UPLINK, targets)?;
        fuzzer.run(number()?)?;
        let seen = watch.seen();
        let nodes: Vec<IpNet> = NODES.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
        let (told, untold): (Vec<SocketAddr>, Vec<SocketAddr>) =
            seen.iter().partition(|peer| sends(peer.ip()));
        println!("{} were told, {} were not", told.len(), untold.len());
        let is_node = |peer: &SocketAddr| nodes.iter().any(|node| node.contains(&peer.ip()));
        if let Some(forged) = untold.iter().find(|peer| !is_node(peer)) {
            bail!(
                "{forged} was seen, whom only TOA names: {:#?}",
                fuzzer.named(*forged)
            );
        }
        ensure!(!told.is_empty(), "nobody was told");
        all_answered(&fuzzer, &told)?;
        let hidden = firsts.counter(Counter::NodeHidden)?;
        ensure!(hidden > 0, "nothing was dropped");
        Ok(())
    });
}
