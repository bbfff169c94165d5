//! What lasts on the relay's HTTP connections: bodies, other protocols, the agent's end; and what is refused.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use ipnet::IpNet;
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Policy};
use tests::balancer::{APPLICATION, RELAY, agent, config, relay_of, relays};
use tests::clients::http::Client;
use tests::host::scenario;
use tests::servers::web::Web;
use tests::topology::{Family, Gateway};
use tests::wait::{Limit, eventually};

use crate::stage::for_http;

/// Whoever is refused before it has reached the upstream waits for less than it takes to repeat a SYN.
const AT_ONCE: Limit = Limit::millis(900);

#[test]
fn bodies_stream_and_protocols_change() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _web = Web::echo(directory, &topology.server, APPLICATION)?;
        let relays = for_http(relays(&topology.server, "reveal"), Some(1));
        let agent = agent(directory, relays)?;
        for family in Family::ALL {
            let client = family.client(0);
            let head = format!("HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n");
            let mut stream = Client::connect(&topology.gateway, relay_of(family))?;
            let post = format!("POST /echo {head}Transfer-Encoding: chunked\r\n\r\n");
            stream.send(post.as_bytes())?;
            for n in 0..10 {
                let chunk = format!("7\r\nchunk {n}\r\n");
                stream.send(chunk.as_bytes())?;
                if n == 0 {
                    ensure!(stream.head()?.status == 200, "no answer");
                }
                // Each piece is back before the next is sent.
                let back = stream.bytes(chunk.len())?;
                ensure!(back == chunk.as_bytes(), "{}", back.escape_ascii());
            }
            stream.send(b"0\r\n\r\n")?;
            ensure!(stream.bytes(5)? == b"0\r\n\r\n", "no end");

            let upgrade = format!("GET / {head}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
            stream.send(upgrade.as_bytes())?;
            ensure!(stream.head()?.status == 101, "not switched");
            let told = stream.line()?;
            let expected = format!("{client},{}\n", Gateway::back(family));
            ensure!(told == expected, "{told:?} instead of {expected:?}");
            for message in [&b"\x81\x02hi"[..], &[7; 100_000]] {
                stream.send(message)?;
                ensure!(stream.bytes(message.len())? == message, "another message");
            }
            let known = agent
                .peers()?
                .0
                .into_iter()
                .filter(|peer| peer.evidence == "xff");
            let known: Vec<_> = known.map(|peer| peer.client.ip()).collect();
            ensure!(known.contains(&client), "{known:?}");
        }
        let lines = eventually("both are logged", || {
            let mut lines = agent.access_log()?;
            lines.retain(|line| line["status"] == 101);
            Ok((lines.len() == 2).then_some(lines))
        })?;
        for (line, family) in lines.iter().zip(Family::ALL) {
            let client = SocketAddr::new(family.client(0), 0).to_string();
            ensure!(line["client"] == client, "{line}");
            ensure!(line["bytes_received"] == 100_004, "{line}");
        }
        no_origins(&agent)
    });
}

#[test]
fn what_tells_the_client_and_what_ends_with_the_agent() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let v4: SocketAddr = (Family::V4.localhost(), APPLICATION).into();
        for send in ["proxy-v1", "proxy-v2"] {
            let _web = Web::nginx_told(directory, &topology.server, &[v4])?;
            let mut relays = for_http(relays(&topology.server, send), Some(1));
            relays.truncate(1);
            let mut config = config(directory, relays)?;
            // An agent that waited for idle connections would take this long to stop.
            config.agent.drain = Some(3600);
            let agent = Agent::start(directory, config)?;
            let mut client = Client::connect(&topology.gateway, relay_of(Family::V4))?;
            for named in ["203.0.113.7", "203.0.113.8", "203.0.113.7"] {
                client.send(
                    format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {named}\r\n\r\n")
                        .as_bytes(),
                )?;
                let answer = client.answer()?;
                // The header tells no port.
                ensure!(answer.body.trim() == named, "{send}: {answer:?}");
            }
            // A connection between two requests does not hold up the agent's end.
            ensure!(agent.stop()?.success(), "the agent's exit status");
            client.assert_ended()?;
        }
        Ok(())
    });
}

/// The gateway connects in the name of nobody; it is the clients of its requests that a policy judges: one of the relays'
/// ports, or one of the application's, whose refusal is the relay's at once.
fn judges_each_request(ports: &str) {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _web = Web::echo(directory, &topology.server, APPLICATION)?;
        let mut config = Config::new(directory, [])?;
        config.relay = for_http(relays(&topology.server, "reveal"), Some(1));
        let [denied, allowed] = [1, 2].map(|n| Family::ALL.map(|family| family.client(n)));
        config.policy.push(Policy {
            name: "denied".into(),
            ports: vec![ports.into()],
            allow: Vec::new(),
            deny: denied.map(|client| IpNet::from(client).to_string()).into(),
        });
        let agent = Agent::start(directory, config)?;
        for family in Family::ALL {
            let mut gateway = Client::connect(&topology.gateway, relay_of(family))?;
            for _ in 0..2 {
                for (clients, status) in [(denied, 403), (allowed, 200)] {
                    for client in clients {
                        let head = format!("Host: a\r\nX-Forwarded-For: {client}\r\n\r\n");
                        gateway.send(format!("GET / HTTP/1.1\r\n{head}").as_bytes())?;
                        let asked = Instant::now();
                        let answer = gateway.answer()?;
                        ensure!(answer.status == status, "{client}: {answer:?}");
                        let took = asked.elapsed();
                        ensure!(took < AT_ONCE.here(), "{client}: {took:?}; {AT_ONCE}");
                    }
                }
            }
        }
        no_origins(&agent)
    });
}

#[test]
fn a_policy_judges_each_request() {
    judges_each_request(&format!("{RELAY}-{}", RELAY + 1));
}

#[test]
fn a_policy_of_the_application_judges_each_request() {
    judges_each_request(&APPLICATION.to_string());
}

/// Those who have connected and not asked yet are answered.
#[test]
fn a_new_configuration_before_the_first_request() {
    const CLIENTS: usize = 20;
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _web = Web::echo(directory, &topology.server, APPLICATION)?;
        let relays = for_http(relays(&topology.server, "reveal"), Some(1));
        let agent = Agent::start(directory, config(directory, relays)?)?;
        let connect = |n: usize| Client::connect(&topology.gateway, relay_of(Family::ALL[n % 2]));
        let clients = (0..CLIENTS).map(connect).collect::<Result<Vec<_>, _>>()?;
        agent.reload(agent.config())?;
        for mut client in clients {
            client.ask("")?;
        }
        no_origins(&agent)
    });
}

/// A configuration by which the relay does the same closes no connection between two requests; one by which it does not closes
/// them, so that the next request is served by it.
#[test]
fn a_new_configuration_between_two_requests() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let _web = Web::echo(directory, &topology.server, APPLICATION)?;
        let relays = for_http(relays(&topology.server, "reveal"), Some(1));
        let agent = Agent::start(directory, config(directory, relays)?)?;
        let connect = |family| Client::connect(&topology.gateway, relay_of(family));
        let clients = Family::ALL.into_iter().map(connect);
        let mut clients = clients.collect::<Result<Vec<_>, _>>()?;
        for client in &mut clients {
            client.ask("")?;
        }
        let mut config = agent.config().clone();
        let policy = Policy {
            name: "strangers".into(),
            ports: vec![APPLICATION.to_string()],
            deny: vec!["192.0.2.0/24".into()],
            ..Policy::default()
        };
        config.policy.push(policy);
        agent.reload(&config)?;
        for client in &mut clients {
            client
                .ask("")
                .context("after a reload that changes nothing for the relay")?;
        }
        for relay in &mut config.relay {
            relay.trusted_hops = Some(2);
        }
        agent.reload(&config)?;
        for client in &mut clients {
            client.assert_ended()?;
        }
        no_origins(&agent)
    });
}
