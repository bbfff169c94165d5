//! The doctor tells the truth about an agent that is dead, and about what others took away.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use tests::agent::{Agent, Config, Relay, Steer, Trust, Unwrap, Visit};
use tests::clients::tcp::connect;
use tests::host::netns::run;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::own::Proxy;
use tests::servers::report::Report;
use tests::topology::{Family, Gateway, Sidecar};
use tests::wait::eventually;

const APPLICATION: u16 = 8080;
const PROXY: u16 = 15006;
const RELAY: u16 = 9000;
const HEADERS: u16 = 8443;

/// A pod with a steer, an unwrap and a relay to its application.
fn config(directory: &Path, sidecar: &Sidecar) -> Result<Config> {
    let steer = Steer::new("inbound", &sidecar.pod, &["8080"], PROXY).on(Sidecar::INTERFACE);
    let mut config = Config::new(directory, [steer])?;
    config
        .trust
        .extend(Trust::saying(&["proxy"], Sidecar::networks()));
    let headers = HEADERS.to_string();
    config.unwrap = vec![Unwrap::new(&sidecar.pod, Sidecar::INTERFACE, &[&headers])];
    let upstream = (Family::V4.localhost(), APPLICATION).into();
    let mut relay = Relay::proxy(&sidecar.pod, any(RELAY), upstream, "reveal");
    relay.accept = "plain";
    config.relay = vec![relay];
    Ok(config)
}

#[test]
fn a_dead_agent_is_not_well() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let config = config(directory, &sidecar)?;
        let _application = Report::start(&sidecar.pod, any(APPLICATION))?;
        let _other = Report::start(&sidecar.pod, any(HEADERS))?;
        let _proxy = Proxy::sidecar(&sidecar.pod, any(PROXY), 1337)?;
        let relay = format!("relay [::]:{RELAY}");

        let never = Visit::with(&config)?;
        never.finds("warn", "agent", &["none has left anything", "truepeer run"])?;
        never.finds("warn", &relay, &["nobody listens", "start the agent"])?;
        ensure!(never.is_well, "{never:#?}");

        let agent = Agent::start(directory, config)?;
        let well = Visit::with(agent.config())?;
        well.finds(
            "ok",
            "agent",
            &["serves as process", &agent.id().to_string()],
        )?;
        well.finds("ok", &relay, &["listens on"])?;
        well.finds(
            "ok",
            &format!("upstreams of {relay}"),
            &["127.0.0.1:8080 accepts"],
        )?;
        well.finds(
            "ok",
            "ingress of eth0",
            &["truepeer_unwrap, truepeer_steer"],
        )?;
        well.finds("ok", "egress of eth0", &["truepeer_answer"])?;
        well.finds("ok", "rules and routes", &["all 4"])?;
        well.finds("ok", "[[unwrap]] on eth0", &["there are servers on 8443"])?;
        ensure!(well.is_well, "{well:#?}");

        let config = agent.kill()?;
        let dead = Visit::with(&config)?;
        ensure!(!dead.is_well, "{dead:#?}");
        let words = [
            "still pinned",
            "steering, unwrap",
            "none of the 1 relays, no metrics",
            "access log",
            "addresses",
        ];
        dead.finds("fail", "agent", &words)?;
        dead.finds("warn", &relay, &["nobody listens"])?;
        dead.finds(
            "ok",
            "ingress of eth0",
            &["truepeer_unwrap, truepeer_steer"],
        )?;

        let successor = Agent::start(directory, config)?;
        ensure!(
            Visit::with(successor.config())?.is_well,
            "a successor is well"
        );
        let config = successor.config().clone();
        ensure!(successor.stop()?.success(), "the agent's exit status");
        Visit::with(&config)?.finds("warn", "agent", &["none has left anything"])
    });
}

#[test]
fn what_others_take_away_or_add() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _application = Report::start(pod, any(APPLICATION))?;
        // A dead agent puts nothing back.
        let config = Agent::start(directory, config(directory, &sidecar)?)?.kill()?;
        let before = Visit::with(&config)?;
        before.finds(
            "warn",
            "[[unwrap]] on eth0",
            &["nobody listens on port 8443"],
        )?;
        before.finds("ok", "rules and routes", &[])?;

        pod.ip("rule del pref 133
             -6 route flush table 133")?;
        pod.set_sysctl("net/ipv4/fwmark_reflect", "0")?;
        run(pod.command("ip")?.args(["link", "set", "eth0", "down"]))?;
        let pins = std::fs::read_dir(config.agent.bpffs.join("links"))?;
        for pin in pins.flatten().map(|pin| pin.path()) {
            if pin.to_string_lossy().contains("truepeer_steer:") {
                std::fs::remove_file(pin)?;
            }
        }
        let found = Visit::with(&config)?;
        found.finds(
            "fail",
            "rules and routes",
            &["IPv4 rule", "pref 133 iif lo", "is missing"],
        )?;
        found.finds(
            "fail",
            "rules and routes",
            &["IPv6 route", "table 133", "is missing"],
        )?;
        found.finds("fail", "net.ipv4.fwmark_reflect", &["is 0"])?;
        found.finds("fail", "ingress of eth0", &["truepeer_steer does not run"])?;
        found.finds("warn", "[[unwrap]] on eth0", &["eth0 is down"])?;

        sidecar.unplug()?;
        let found = Visit::with(&config)?;
        found.finds("fail", "[[unwrap]] on eth0", &["no interface \"eth0\""])?;
        let path = config.write()?.display().to_string();
        tests::agent::truepeer(&["detach", "--config", &path])?;
        Ok(())
    });
}

#[test]
fn what_is_wrong_with_relays() {
    scenario(|directory| {
        let topology = Gateway::new()?;
        let (gateway, server) = (&topology.gateway, &topology.server);
        let _application = Report::start(server, any(APPLICATION))?;
        let at = |netns, port: u16, upstream| {
            let mut relay = Relay::proxy(netns, any(port), upstream, "reveal");
            relay.accept = "plain";
            relay
        };
        let mut config = Config::new(directory, [])?;
        let there = |port: u16| (Gateway::server(Family::V4), port).into();
        let front = |port: u16| (Gateway::front(Family::V6), port).into();
        config.relay = vec![
            // Well, as the application is another network namespace's of this host.
            at(gateway, 9001, there(APPLICATION)),
            at(gateway, 9002, there(1)),
            at(gateway, 9003, "203.0.113.1:80".parse()?),
            // By an address of its own.
            at(gateway, 9004, front(9004)),
            // Through another namespace and back.
            at(gateway, 9005, there(9006)),
            at(server, 9006, (Gateway::back(Family::V4), 9005).into()),
        ];
        config.relay[0].upstream.push(there(1));
        let agent = Agent::start(directory, config)?;
        let found = Visit::with(agent.config())?;
        ensure!(!found.is_well, "{found:#?}");
        found.finds(
            "ok",
            "upstreams of relay [::]:9001",
            &["10.78.0.2:8080 accepts"],
        )?;
        found.finds(
            "warn",
            "upstreams of relay [::]:9001",
            &["10.78.0.2:1 does not answer", "refused", "the others"],
        )?;
        found.finds(
            "fail",
            "upstreams of relay [::]:9002",
            &["10.78.0.2:1 does not answer", "every connection"],
        )?;
        found.finds(
            "warn",
            "relay [::]:9003",
            &["no network namespace", "203.0.113.1:80"],
        )?;
        found.finds(
            "fail",
            "upstreams of relay [::]:9003",
            &["203.0.113.1:80 does not answer"],
        )?;
        found.finds("fail", "relay [::]:9004", &["connects to itself"])?;
        for relay in ["relay [::]:9005", "relay [::]:9006"] {
            found.finds(
                "fail",
                relay,
                &["come back to it", "relay [::]:9005, relay [::]:9006"],
            )?;
        }
        // The doctor does not try what goes round.
        connect(gateway, (Gateway::front(Family::V4), 9001).into())?;
        let accepted = |port: u16| {
            let name = format!("truepeer_relay_connections_total{{relay=\"[::]:{port}\"}}");
            agent.metric(&name)
        };
        eventually("its own connection is counted", || {
            Ok((accepted(9001)? == 1).then_some(()))
        })?;
        for port in [9004, 9005, 9006] {
            ensure!(accepted(port)? == 0, "connections to {port}");
        }
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// Runs `config check`, and returns the exit code, standard output and standard error.
fn check(directory: &Path, text: &str) -> Result<(Option<i32>, String, String)> {
    let path = directory.join("checked.toml");
    std::fs::write(&path, text)?;
    let mut command = Command::new(tests::agent::binary()?);
    let output = command.args(["config", "check"]).arg(path).output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok((
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    ))
}

#[test]
fn a_configuration_is_told_and_judged() {
    scenario(|directory| {
        let relay = "[[relay]]\nlisten = \"[::]:80\"\nupstream = [\"10.77.0.2:8080\"]\n";
        let text = format!("{relay}[[trust]]\nsource = [\"0.0.0.0/0\"]\nsays = [\"toa\"]\n");
        let (code, said, warned) = check(directory, &text)?;
        ensure!(code == Some(0), "{code:?} {warned}");
        for sentence in [
            "valid\n",
            "relay [::]:80: takes connections",
            "trust of source 0.0.0.0/0: whoever",
        ] {
            ensure!(said.contains(sentence), "{sentence:?} in {said}");
        }
        ensure!(!said.contains("warning"), "{said}");
        for part in [
            "checked.toml:5:11",
            "all addresses of IPv4",
            "checked.toml:3:13",
            "no network namespace of this host has the address 10.77.0.2",
        ] {
            ensure!(warned.contains(part), "{part:?} in {warned}");
        }
        // With a host that has the address.
        let _sidecar = Sidecar::new()?;
        let (_, _, warned) = check(directory, &text)?;
        ensure!(!warned.contains("no network namespace"), "{warned}");

        let itself = relay.replace("10.77.0.2:8080", "127.0.0.1:80");
        let (code, said, wrong) = check(directory, &itself)?;
        ensure!((code, said.as_str()) == (Some(2), ""), "{code:?} {said}");
        ensure!(
            wrong.contains("would connect to itself") && wrong.contains("checked.toml:3:13"),
            "{wrong}"
        );
        Ok(())
    });
}
