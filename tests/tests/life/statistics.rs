//! What is told of clients besides their addresses: how many connections and bytes their prefix has, what
//! PROXY headers say of them, and whom the relay refuses.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde_json::{Value, json};
use tests::agent::records::no_origins;
use tests::agent::{Agent, truepeer};
use tests::balancer::{APPLICATION, agent, client_of, relay_of, relays, routes, targets};
use tests::clients::load::{Connection, Load, PING};
use tests::clients::tcp::{assert_refused, connect, seen};
use tests::host::scenario;
use tests::proxies::proxy_header::{self, told, v2_with_checksum};
use tests::proxies::{any, haproxy};
use tests::servers::report::Report;
use tests::topology::{Family, Gateway};
use tests::wait::eventually;

/// The access log's lines of which this is true.
fn lines(agent: &Agent, n: usize, is_it: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
    eventually("lines in the access log", || {
        let lines: Vec<_> = agent.access_log()?.into_iter().filter(&is_it).collect();
        Ok((lines.len() == n).then_some(lines))
    })
}

/// What is to be told of a prefix: the sums of the access log, and the connections that are open.
fn row(family: Family, prefix: &str, logged: &[Value], held: &[Connection]) -> Result<Value> {
    let is_it = |line: &&Value| {
        let client = line["client"].as_str().and_then(|c| c.parse().ok());
        client.is_some_and(|client| Family::of(client) == family)
    };
    let lines: Vec<_> = logged.iter().filter(is_it).collect();
    let sum = |key| -> u64 { lines.iter().filter_map(|line| line[key].as_u64()).sum() };
    let held = held.iter().filter(|c| Family::of(c.client) == family);
    let told: Vec<_> = held
        .map(|c| Ok(c.seen.line()?.len() as u64))
        .collect::<Result<_>>()?;
    let open = told.len() as u64;
    // The PROXY specification, 2.2: without TLVs.
    let header = if family == Family::V4 { 28 } else { 52 };
    // Each has been echoed once when it is held.
    let pings = 2 * open * PING.len() as u64;
    ensure!(open > 0 && !lines.is_empty() && sum("bytes_sent") > 0);
    Ok(json!({
        "prefix": prefix,
        "open": 2 * open,
        "connections": lines.len(),
        "bytes_received": sum("bytes_received") + open * header + pings,
        // The application to the relay, and the relay to the balancer.
        "bytes_sent": sum("bytes_sent") + 2 * told.iter().sum::<u64>() + pings,
        "refused": 0,
    }))
}

#[test]
fn prefixes_of_clients_are_counted() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let agent = agent(directory, relays(&topology.server, "reveal"))?;
        let _balancer = haproxy::telling(directory, &topology.gateway, "send-proxy-v2", &routes())?;
        let mut load = Load::new(targets());
        load.connections = 200;
        load.run(&topology.client).all_exact()?;
        no_origins(&agent)?;
        let held = load.hold(&topology.client)?;

        // A connection has two hops on the server, the relay's and the application's.
        let logged = lines(&agent, 400, |line| line.get("client").is_some())?;
        ensure!(logged.len() == 2 * load.connections, "{}", logged.len());
        let prefixes = ["203.0.113.0/24", "2001:db8:c::/64"];
        let expected: Vec<_> = Family::ALL
            .into_iter()
            .zip(prefixes)
            .map(|(family, prefix)| row(family, prefix, &logged, &held))
            .collect::<Result<_>>()?;
        // The counts are complete once everything is acknowledged.
        eventually("each prefix has its counts", || {
            let top = agent.top("connections")?;
            let rows = top["prefixes"].as_array().context("no prefixes")?;
            let is_right = rows.len() == 2 && expected.iter().all(|row| rows.contains(row));
            Ok(is_right.then_some(()))
        })
        .with_context(|| format!("{expected:?} instead of {:?}", agent.top("connections")))?;
        let lasted = "truepeer_connection_duration_seconds_count{evidence=\"proxy\"}";
        let lasted = agent.metric(lasted)?;
        ensure!(lasted == 400, "{lasted} connections in the histogram");

        let socket = agent.config().agent.socket.display().to_string();
        let printed = truepeer(&["peers", "--top", "1", "--by", "bytes", "--socket", &socket])?;
        let printed = String::from_utf8(printed.stdout)?;
        ensure!(printed.lines().count() == 2, "{printed}");
        ensure!(printed.contains(" 200 "), "{printed}");
        drop(held);
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn what_a_header_says_is_shown() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let agent = agent(directory, relays(&topology.server, "reveal"))?;
        let expected = told();
        for family in Family::ALL {
            let (client, target) = (client_of(family), relay_of(family));
            let mut telling = connect(&topology.gateway, target)?;
            telling.write_all(&proxy_header::telling(client, target))?;
            seen(&mut telling)?;
            let mut silent = connect(&topology.gateway, target)?;
            silent.write_all(&v2_with_checksum(client, target))?;
            seen(&mut silent)?;

            let peers = agent.peers()?;
            for (stream, expected) in [(&telling, &expected), (&silent, &Value::Null)] {
                let own = stream.local_addr()?;
                let peer = peers.find(target, own).context("no origin")?;
                ensure!(peer.proxy == *expected, "{peer:?}");
            }
            let own = telling.local_addr()?.to_string();
            drop((telling, silent));
            let line = lines(&agent, 1, |line| line["remote"] == own)?.remove(0);
            ensure!(line["proxy"] == expected, "{line}");
        }
        let all = lines(&agent, 8, |_| true)?;
        let with = all.iter().filter(|line| line.get("proxy").is_some());
        ensure!(with.count() == 2, "{all:?}");
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn whom_the_relay_refuses_is_logged_and_counted() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let agent = agent(directory, relays(&topology.server, "reveal"))?;
        for family in Family::ALL {
            let target = relay_of(family);
            let mut stream = connect(&topology.gateway, target)?;
            let own = stream.local_addr()?.to_string();
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
            let line = lines(&agent, 1, |line| line["remote"] == own)?.remove(0);
            ensure!(line["refused"] == "no_header", "{line}");
            ensure!(line["local"] == target.to_string(), "{line}");
            ensure!(line.get("client").is_none(), "{line}");

            // Nobody listens at the upstream; by then the relay knows the client.
            let client = client_of(family);
            let mut stream = connect(&topology.gateway, target)?;
            let own = stream.local_addr()?.to_string();
            stream.write_all(&v2_with_checksum(client, target))?;
            let line = lines(&agent, 1, |line| line["remote"] == own)?.remove(0);
            ensure!(line["refused"] == "upstream", "{line}");
            ensure!(line["client"] == client.to_string(), "{line}");
            ensure!(line["evidence"] == "proxy", "{line}");

            assert_refused(&topology.client, target, "an untrusted source")?;
        }
        lines(&agent, 2, |line| line["refused"] == "untrusted")?;
        // A refused connection counts for the client where that is known, and otherwise for the sender.
        let mut expected = BTreeMap::new();
        for line in lines(&agent, 6, |_| true)? {
            let who = line.get("client").unwrap_or(&line["remote"]);
            let who: SocketAddr = serde_json::from_value(who.clone())?;
            let length = if who.is_ipv4() { 24 } else { 64 };
            let prefix = IpNet::new(who.ip(), length)?.trunc().to_string();
            *expected.entry(prefix).or_insert(0) += 1;
        }
        ensure!(expected.len() >= 4, "{expected:?}");
        let top = agent.top("refused")?;
        let counted: BTreeMap<_, _> = top["prefixes"]
            .as_array()
            .context("no prefixes")?
            .iter()
            .filter_map(|row| Some((row["prefix"].as_str()?.to_owned(), row["refused"].as_u64()?)))
            .collect();
        ensure!(counted == expected, "{counted:?} instead of {expected:?}");
        ensure!(
            agent.top("connections")?["prefixes"] == json!([]),
            "nothing was served"
        );
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
