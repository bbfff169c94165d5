//! What becomes of a SYN before the node's own NAT, byte by byte.

mod stage;

use std::net::{IpAddr, SocketAddr};

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use etherparse::{IpNumber, Ipv4Header, Ipv6Header};
use tests::clients::load::Load;
use tests::clients::raw::{LINUX, toa};
use tests::cluster::nodes::REPORT;
use tests::host::{iptables, scenario};
use tests::topology::Family;

use self::stage::Stage;

/// Flags of a TCP header.
const SYN: u8 = 0x02;

const ACK: u8 = 0x10;

/// What Linux puts on a SYN, without padding.
const LINUX_CLOSED_UP: [u8; 19] = [
    2, 4, 0x05, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 3, 3, 7,
];

/// What macOS puts on a SYN, with padding and without.
const MACOS: [u8; 24] = [
    2, 4, 0x05, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 4, 2, 0, 0,
];

const MACOS_CLOSED_UP: [u8; 19] = [
    2, 4, 0x05, 0xb4, 3, 3, 6, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 4, 2,
];

/// What Windows puts on a SYN, with padding and without.
const WINDOWS: [u8; 12] = [2, 4, 0x05, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2];

const WINDOWS_CLOSED_UP: [u8; 9] = [2, 4, 0x05, 0xb4, 3, 3, 8, 4, 2];

/// Options as a SYN has them: padded to four bytes.
fn padded(options: &[&[u8]]) -> Vec<u8> {
    let mut options = options.concat();
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

#[test]
fn every_system_is_told() {
    scenario(|directory| {
        let mut stage = Stage::new(directory)?;
        let systems = [
            (&LINUX[..], &LINUX_CLOSED_UP[..]),
            (&MACOS, &MACOS_CLOSED_UP),
            (&WINDOWS, &WINDOWS_CLOSED_UP),
            (&[], &[]),
            // Whatever lies behind a malformed option is not read.
            (&[2, 4, 0x05, 0xb4, 3, 0, 5, 5], &[2, 4, 0x05, 0xb4]),
        ];
        for (options, closed_up) in systems {
            for family in Family::ALL {
                let source = stage.source(family);
                let passed = stage
                    .passed(source, options, &[])
                    .with_context(|| format!("{options:?}"))?;
                let expected = padded(&[closed_up, &toa(254, source)]);
                ensure!(passed == (expected, vec![]), "{options:?}: {passed:?}");
                let source = stage.source(family);
                let seen = stage.seen(source, options)?;
                ensure!(seen == source, "{source} was seen as {seen}");
            }
        }
        Ok(())
    });
}

#[test]
fn toa_that_a_client_sends_is_replaced() {
    scenario(|directory| {
        let mut stage = Stage::new(directory)?;
        let v4 = toa(254, "192.0.2.66:666".parse()?);
        let v6 = |kind| -> Result<_> { Ok(toa(kind, "[2001:db8::66]:666".parse()?)) };
        let forged = [
            v4.clone(),
            v6(253)?,
            v6(254)?,
            // Several, one of them invalid.
            [&v4[..], &v4].concat(),
            [&v4[..], &[1, 1], &toa(254, "127.0.0.1:1".parse()?), &v4].concat(),
            [v6(253)?, v4.clone()].concat(),
        ];
        let mut replaced = 0;
        for forged in &forged {
            for options in [
                forged.clone(),
                [&[2, 4, 0x05, 0xb4], &forged[..]].concat(),
                [&forged[..], &[4, 2, 3, 3, 7]].concat(),
            ] {
                for family in Family::ALL {
                    let source = stage.source(family);
                    let own: Vec<u8> = [&[2, 4, 0x05, 0xb4][..], &[4, 2, 3, 3, 7]]
                        .into_iter()
                        .filter(|own| options.starts_with(own) || options.ends_with(own))
                        .flatten()
                        .copied()
                        .collect();
                    let (passed, _) = stage.passed(source, &options, &[])?;
                    let expected = padded(&[&own, &toa(254, source)]);
                    ensure!(passed == expected, "{options:?} became {passed:?}");
                    let source = stage.source(family);
                    let seen = stage.seen(source, &options)?;
                    ensure!(seen == source, "{source} was seen as {seen}");
                    replaced += 2;
                }
            }
        }
        let count = stage.agent.counter(Counter::NodeForged)?;
        ensure!(count == replaced, "{count} of {replaced} counted");
        // What nothing trusts is taken off even where the truth has no room.
        let full = [&LINUX[..], &v4, &[200, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        let source = stage.source(Family::V6);
        let (passed, _) = stage.passed(source, &full, &[])?;
        let expected = padded(&[&LINUX_CLOSED_UP, &full[28..]]);
        ensure!(passed == expected, "{passed:?}");
        let source = stage.source(Family::V6);
        let seen = stage.seen(source, &full)?;
        ensure!(seen.ip() != source.ip() && seen.port() != 666, "{seen}");
        Ok(())
    });
}

#[test]
fn toa_that_a_trusted_hop_sends_stays() {
    scenario(|directory| {
        let mut stage = Stage::new(directory)?;
        for family in Family::ALL {
            let mut hop: SocketAddr = (family.balancer(2), 20_000).into();
            let client = SocketAddr::new(family.client(76), 4711);
            let options = padded(&[&LINUX, &toa(254, client)]);
            let passed = stage.passed(hop, &options, &[])?;
            ensure!(passed == (options.clone(), vec![]), "{passed:?}");
            hop.set_port(20_001);
            let seen = stage.seen(hop, &options)?;
            ensure!(seen == client, "{client} was seen as {seen}");
            // A trusted hop that sends no TOA is the client itself.
            hop.set_port(20_002);
            let seen = stage.seen(hop, &LINUX)?;
            ensure!(seen == hop, "{hop} was seen as {seen}");
        }
        ensure!(stage.agent.counter(Counter::LearntToa)? == 2, "toa");
        ensure!(stage.agent.counter(Counter::LearntSnat)? == 2, "snat");
        ensure!(stage.agent.counter(Counter::NodeForged)? == 0, "forged");
        Ok(())
    });
}

#[test]
fn without_room_it_goes_on_unchanged() {
    scenario(|directory| {
        let mut stage = Stage::new(directory)?;
        // Of 40 bytes, 33 or 21 are taken.
        for (family, length) in [(Family::V4, 14), (Family::V6, 2)] {
            let mut options = [&LINUX[..], &[200, length]].concat();
            options.resize(20 + usize::from(length), 7);
            let options = padded(&[&options]);
            let source = stage.source(family);
            let passed = stage.passed(source, &options, &[])?;
            ensure!(passed == (options.clone(), vec![]), "{passed:?}");
            let source = stage.source(family);
            let seen = stage.seen(source, &options)?;
            ensure!(seen.ip() != source.ip(), "{seen}");
        }
        let count = stage.agent.counter(Counter::NodeNoRoom)?;
        ensure!(count == 4, "{count} counted");
        Ok(())
    });
}

/// A header cannot grow into the payload; forged TOA is taken off all the same.
#[test]
fn with_payload_its_length_stays() {
    scenario(|directory| {
        let mut stage = Stage::new(directory)?;
        let payload = b"GET / HTTP/1.0\r\n\r\n!";
        for family in Family::ALL {
            let source = stage.source(family);
            let passed = stage.passed(source, &LINUX, payload)?;
            ensure!(passed == (LINUX.to_vec(), payload.to_vec()), "{passed:?}");
            let forged = toa(254, SocketAddr::new(family.client(9), 666));
            let options = padded(&[&LINUX, &forged]);
            let passed = stage.passed(source, &options, payload)?;
            let expected = padded(&[&LINUX_CLOSED_UP, &toa(254, source)]);
            ensure!(passed == (expected, payload.to_vec()), "{passed:?}");
        }
        let count = |counter| stage.agent.counter(counter);
        ensure!(count(Counter::NodeNoRoom)? == 2, "no room");
        ensure!(count(Counter::NodeForged)? == 2, "forged");
        Ok(())
    });
}

/// What may as well be TCP Fast Open's cookie is neither believed nor said: its sender is unknown.
#[test]
fn what_may_be_a_cookie_tells_nothing() {
    const FAST_OPEN: u16 = 0xf989;
    scenario(|directory| {
        let mut stage = Stage::new(directory)?;
        for family in Family::ALL {
            let (client, hop) = (family.balancer(1), family.balancer(2));
            let said = toa(254, SocketAddr::new(family.client(76), FAST_OPEN));
            let with_toa = padded(&[&LINUX, &said]);
            for (source, another, options) in [
                (
                    (client, FAST_OPEN),
                    (family.balancer(3), FAST_OPEN),
                    &LINUX[..],
                ),
                ((client, 20_000), (client, 20_001), &with_toa),
                ((hop, 20_000), (hop, 20_001), &with_toa),
            ] {
                let passed = stage.passed(source.into(), options, &[])?;
                ensure!(
                    passed == (options.to_vec(), vec![]),
                    "{source:?}: {passed:?}"
                );
                let seen = stage.seen(another.into(), options)?;
                let named = [client, family.balancer(3), hop, family.client(76)];
                ensure!(
                    !named.contains(&seen.ip()),
                    "{another:?} was seen as {seen}"
                );
            }
        }
        let count = |counter| stage.agent.counter(counter);
        let ambiguous = count(Counter::ToaAmbiguous)?;
        ensure!(ambiguous >= 12, "{ambiguous} counted");
        ensure!(count(Counter::LearntToa)? == 0 && count(Counter::LearntSnat)? == 0);
        Ok(())
    });
}

/// A SYN whose options cannot be read is dropped, so that nobody believes TOA in it.
#[test]
fn a_syn_that_hides_is_dropped() {
    scenario(|directory| {
        let mut stage = Stage::new(directory)?;
        let mut hidden = 0;
        let [v4, v6] = stage.node().targets(REPORT);
        let segment = |source: SocketAddr, target: SocketAddr, flags: u8| {
            let mut header = [0; 40];
            header[..2].copy_from_slice(&source.port().to_be_bytes());
            header[2..4].copy_from_slice(&target.port().to_be_bytes());
            [header[12], header[13]] = [10 << 4, flags];
            header[20..28].copy_from_slice(&toa(254, SocketAddr::from(([192, 0, 2, 66], 666))));
            header
        };
        for (length, flags, is_dropped) in [
            (40, SYN, true),
            (24, SYN, true),
            (8, SYN, true),
            (40, ACK, false),
        ] {
            let source = stage.source(Family::V4);
            let payload = &segment(source, v4, flags)[..length];
            let (IpAddr::V4(from), IpAddr::V4(to)) = (source.ip(), v4.ip()) else {
                unreachable!("both are IPv4");
            };
            let (from, to) = (from.octets(), to.octets());
            let mut ip = Ipv4Header::new(length as u16, 64, IpNumber::TCP, from, to)?;
            ip.more_fragments = true;
            ip.dont_fragment = false;
            let mut packet = Vec::new();
            ip.write(&mut packet)?;
            stage.client.packet(v4, &[&packet, payload].concat())?;
            hidden += u64::from(is_dropped);
            stage
                .hides(hidden)
                .with_context(|| format!("{length} bytes, flags {flags}"))?;
        }
        // Kind of the header, and what it begins with behind the kind of the next: options, padded; a fragment that
        // is the only one, the first or another; routing; authentication.
        for (kind, header, flags, is_dropped) in [
            (60, vec![0, 1, 4, 0, 0, 0, 0], SYN, true),
            (60, [vec![1, 1, 12], vec![0; 12]].concat(), SYN, true),
            (60, vec![0, 1, 4, 0, 0, 0, 0], ACK, false),
            (44, vec![0, 0, 0, 0, 0, 0, 1], SYN, true),
            (44, vec![0, 0, 1, 0, 0, 0, 1], SYN, true),
            (44, vec![0, 0, 9, 0, 0, 0, 1], SYN, false),
            (43, vec![0, 4, 0, 0, 0, 0, 0], SYN, true),
            (51, [vec![1], vec![0; 10]].concat(), SYN, true),
        ] {
            let source = stage.source(Family::V6);
            let (IpAddr::V6(from), IpAddr::V6(to)) = (source.ip(), v6.ip()) else {
                unreachable!("both are IPv6");
            };
            let payload = segment(source, v6, flags);
            let ip = Ipv6Header {
                payload_length: (1 + header.len() + payload.len()) as u16,
                next_header: IpNumber(kind),
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            let mut packet = Vec::new();
            ip.write(&mut packet)?;
            packet.push(IpNumber::TCP.0);
            let packet = [&packet, &header[..], &payload].concat();
            stage.client.packet(v6, &packet)?;
            hidden += u64::from(is_dropped);
            stage
                .hides(hidden)
                .with_context(|| format!("header {kind}, flags {flags}"))?;
        }
        Ok(())
    });
}

/// Where the sender leaves the checksum to the device, it is made behind the node: here by a rule, so that the pod
/// has a whole one to compare with.
#[test]
fn checksums_that_a_device_is_to_make() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        let node = stage.node();
        // The tables of kube-proxy's rules are others.
        iptables::restore(&node.netns, directory, |_| {
            "*mangle\n-A POSTROUTING -p tcp -j CHECKSUM --checksum-fill\nCOMMIT\n".into()
        })?;
        let load = Load {
            connections: 20,
            concurrent: 10,
            ..Load::new(node.targets(REPORT))
        };
        load.run(&stage.cluster.client).all_exact()?;
        let errors = stage.pod_errors()?;
        ensure!(errors == 0, "{errors} wrong checksums");
        Ok(())
    });
}
