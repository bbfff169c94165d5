//! The relay between real peers: load balancers that send PROXY headers, and servers that know nothing of
//! them or expect one.

use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Trust};
use tests::balancer::{APPLICATION, SOURCES, agent, relay_of, relays, routes, targets};
use tests::clients::load::{Application, Load};
use tests::clients::tcp::connect;
use tests::host::netns::run;
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::proxies::{any, envoy, haproxy, nginx};
use tests::servers::report::Report;
use tests::servers::web::Web;
use tests::topology::{Family, Gateway};

#[test]
fn load_balancers_and_an_unmodified_application() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let before = topology.server.enter(Traces::here)?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let agent = agent(directory, relays(&topology.server, "reveal"))?;
        let mut load = Load::new(targets());
        load.connections = 400;
        for send in [
            "send-proxy",
            "send-proxy-v2",
            "send-proxy-v2 proxy-v2-options crc32c,unique-id",
        ] {
            let haproxy = haproxy::telling(directory, &topology.gateway, send, &routes())?;
            load.run(&topology.client).all_exact().context(send)?;
            haproxy.stop()?;
        }
        {
            let nginx = nginx::telling(directory, &topology.gateway, &routes())?;
            load.run(&topology.client).all_exact()?;
            hops_are_known(&agent, &topology, &load)?;
            nginx.stop()?;
        }
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        before.assert_unchanged(&topology.server.enter(Traces::here)?)
    });
}

/// Both the relay's and the application's sockets have an origin that says who vouches.
fn hops_are_known(agent: &Agent, topology: &Gateway, load: &Load) -> Result<()> {
    let held = load.hold(&topology.client)?;
    let peers = agent.peers()?;
    for connection in &held {
        let known: Vec<_> = peers
            .0
            .iter()
            .filter(|peer| peer.client == connection.client)
            .collect();
        let is_v4 = connection.client.is_ipv4();
        let rule = format!("source {}", SOURCES[usize::from(!is_v4)]);
        ensure!(
            known.len() == 2
                && known
                    .iter()
                    .all(|peer| peer.evidence == "proxy" && peer.trusted_by == rule),
            "{} is known as {known:?}",
            connection.client
        );
        ensure!(
            known
                .iter()
                .any(|peer| peer.original_dst == connection.target)
                && known.iter().any(|peer| peer.local == connection.seen.local),
            "{known:?}"
        );
    }
    Ok(())
}

#[test]
fn servers_that_expect_a_header() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let served = Family::ALL.map(|family| (family.localhost(), APPLICATION).into());
        let mut load = Load::new(targets());
        load.application = Application::Web;
        load.connections = 200;
        let sent = "send-proxy-v2 proxy-v2-options crc32c,unique-id";
        let _balancer = haproxy::telling(directory, &topology.gateway, sent, &routes())?;
        for send in ["proxy-v1", "proxy-v2"] {
            let agent = agent(directory, relays(&topology.server, send))?;
            {
                let _web = Web::nginx_told(directory, &topology.server, &served)?;
                load.run(&topology.client).all_exact().context(send)?;
            }
            let _haproxy = haproxy::told(directory, &topology.server, &served)?;
            load.run(&topology.client).all_exact().context(send)?;
            for target in targets() {
                let mut stream = connect(&topology.client, target)?;
                stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                let told = format!("unique-id: id-of-{}", stream.local_addr()?.ip());
                ensure!(
                    answer.contains(&told) == (send == "proxy-v2"),
                    "{send}: no {told:?} in {answer:?}"
                );
            }
            ensure!(agent.stop()?.success(), "the agent's exit status");
        }
        Ok(())
    });
}

#[test]
fn envoy_on_both_sides() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let served = |port| Family::ALL.map(|family| (family.localhost(), port).into());
        let behind: [_; 2] = served(APPLICATION + 1);
        let _web = Web::nginx_told(directory, &topology.server, &behind)?;
        let mut load = Load::new(targets());
        load.application = Application::Web;
        load.connections = 200;
        for (version, send) in [("V1", "proxy-v2"), ("V2", "proxy-v1")] {
            let agent = agent(directory, relays(&topology.server, send))?;
            let _balancer = envoy::telling(directory, &topology.gateway, version, &routes())?;
            let onwards: Vec<_> = served(APPLICATION).into_iter().zip(behind).collect();
            let _server = envoy::told_and_telling(directory, &topology.server, version, &onwards)?;
            load.run(&topology.client).all_exact().context(version)?;
            ensure!(agent.stop()?.success(), "the agent's exit status");
        }
        Ok(())
    });
}

#[test]
fn without_telling_and_with_spoofed_packets() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let before = topology.server.enter(Traces::here)?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let _balancer = haproxy::telling(directory, &topology.gateway, "send-proxy-v2", &routes())?;
        let mut load = Load::new(targets());
        load.connections = 200;
        for send in ["plain", "transparent"] {
            let mut config = Config::new(directory, [])?;
            config.trust.extend(Trust::sources(SOURCES));
            config.relay = relays(&topology.server, send);
            // What the application sees is what is on the wire.
            config.reveal.enabled = false;
            let agent = Agent::start(directory, config)?;
            let outcome = load.run(&topology.client);
            match send {
                "plain" => outcome.all_lost()?,
                _ => outcome.all_exact()?,
            }
            ensure!(agent.stop()?.success(), "the agent's exit status");
        }
        before.assert_unchanged(&topology.server.enter(Traces::here)?)
    });
}

#[test]
fn curl_speaks_for_itself() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let served = Family::ALL.map(|family| (family.localhost(), APPLICATION).into());
        let _web = Web::nginx(directory, &topology.server, &served)?;
        let agent = agent(directory, relays(&topology.server, "reveal"))?;
        for family in Family::ALL {
            let url = format!("http://{}/", relay_of(family));
            let answer =
                run(topology
                    .gateway
                    .command("curl")?
                    .args(["-sS", "--haproxy-protocol", &url]))?;
            let own = Gateway::back(family).to_string();
            ensure!(answer.starts_with(&own), "{own} is told as {answer:?}");
        }
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
