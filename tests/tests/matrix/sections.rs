//! Every section of the configuration alone: the agent becomes ready, has the programs in place that the section needs
//! and no others, does what the section is for, and leaves nothing.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use agent_common::names::program;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tests::agent::{
    Agent, Carry, CarryNode, CarryToa, Config, Policy, Relay, Steer, Trust, Unwrap, binary,
};
use tests::clients::load::{Load, Outcome};
use tests::host::netns::{Netns, run};
use tests::host::traces::Traces;
use tests::host::user::UID;
use tests::host::{kernel, scenario};
use tests::proxies::own::Proxy;
use tests::proxies::proxy_header::v2;
use tests::proxies::{any, local_routes};
use tests::roles;
use tests::servers::report::{Report, Seen};
use tests::topology::{Family, Sidecar};
use tests::wait::{Limit, SOON};

const PLAYGROUND: &str = env!("CARGO_BIN_EXE_playground");
const APPLICATION: u16 = 8080;
const PROXY: u16 = 15006;
const MARK: u32 = 1337;
/// The networks from which the client speaks for others.
const SENDERS: [&str; 2] = ["10.77.0.0/24", "fd77::/64"];

/// What is in place whatever is configured: who learns, who chooses ports, and who reveals, which is on by default.
const ALWAYS: [&str; 7] = [
    program::LEARN,
    program::PORT4,
    program::PORT6,
    program::RELEASE,
    program::PEER4,
    program::PEER6,
    program::ORIGINAL_DST,
];
/// What judges connections in a client's name, as an application may be unable to express him.
const SOURCE: [&str; 2] = [program::SOURCE4, program::SOURCE6];
const BIND: [&str; 5] = [
    program::ASK,
    program::BIND4,
    program::BIND6,
    program::SOURCE4,
    program::SOURCE6,
];

/// Where a section is tried.
struct Stage<'a> {
    directory: &'a Path,
    sidecar: &'a Sidecar,
}

/// Runs the agent with what `change` makes of an empty configuration. The programs of [`ALWAYS`] and `programs` must be
/// in place while `connect` tries what they are for, and nothing afterwards.
fn section(
    programs: &[&str],
    change: impl FnOnce(&Stage<'_>, &mut Config) -> Result<()>,
    connect: impl FnOnce(&Stage<'_>) -> Result<()>,
) {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let stage = Stage {
            directory,
            sidecar: &sidecar,
        };
        let before = sidecar.pod.enter(Traces::here)?;
        let mut config = Config::new(directory, [])?;
        change(&stage, &mut config)?;
        let mut wanted: BTreeSet<_> = ALWAYS.iter().chain(programs).copied().collect();
        // Before, the kernel does not show the SYNs that listeners answer which are older than the agent.
        if reads_toa(&config) && !kernel::is_at_least(6, 12)? {
            wanted.insert(program::HEAR);
        }
        let agent = Agent::start(directory, config)?;
        println!("ready after {:.1?}", agent.ready_after);
        let found = in_place(&agent)?;
        let found: BTreeSet<_> = found.iter().map(String::as_str).collect();
        ensure!(
            found == wanted,
            "{found:?} are in place instead of {wanted:?}"
        );
        connect(&stage)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        before.assert_unchanged(&sidecar.pod.enter(Traces::here)?)
    });
}

/// Whether somebody may be believed by TOA.
fn reads_toa(config: &Config) -> bool {
    let nodes = config.carry.iter().flat_map(|carry| &carry.node);
    config.trust.iter().any(|rule| rule.says.contains(&"toa")) || nodes.count() != 0
}

/// The programs that `truepeer status` lists.
fn in_place(agent: &Agent) -> Result<BTreeSet<String>> {
    let mut status = Command::new(binary()?);
    status.args(["status", "--output", "json", "--socket"]);
    status.arg(&agent.config().agent.socket);
    let status: Value = serde_json::from_str(&run(&mut status)?)?;
    let links = status["links"].as_array().context("no links")?;
    links
        .iter()
        .map(|link| {
            let program = link["program"].as_str();
            program.map(str::to_owned).with_context(|| link.to_string())
        })
        .collect()
}

/// A few connections.
fn few_to(client: &Netns, target: SocketAddr) -> Outcome {
    let load = Load {
        connections: 4,
        concurrent: 2,
        ..Load::new([target])
    };
    load.run(client)
}

/// A few connections to a port of the pod over each IP version, whose outcome must be as it should.
fn few(stage: &Stage<'_>, port: u16, check: fn(&Outcome) -> Result<()>) -> Result<()> {
    Family::ALL.into_iter().try_for_each(|family| {
        let target = (Sidecar::address(family), port).into();
        check(&few_to(&stage.sidecar.client, target)).with_context(|| format!("to {target}"))
    })
}

fn steer(stage: &Stage<'_>, ports: &[&str]) -> Steer {
    Steer::new("in", &stage.sidecar.pod, ports, PROXY)
}

#[test]
fn none() {
    section(&[], |_, _| Ok(()), |_| Ok(()));
}

#[test]
fn steer_on_an_interface() {
    section(
        &[program::STEER, program::LOOKUP],
        |stage, config| {
            config
                .steer
                .push(steer(stage, &["8080"]).on(Sidecar::INTERFACE));
            Ok(())
        },
        |stage| {
            let pod = &stage.sidecar.pod;
            let _application = Report::start(pod, any(APPLICATION))?;
            let _proxy = Proxy::sidecar(pod, any(PROXY), MARK)?;
            few(stage, APPLICATION, Outcome::all_kept)
        },
    );
}

#[test]
fn steer_in_the_whole_namespace() {
    section(
        &[program::LOOKUP],
        |stage, config| {
            config.steer.push(steer(stage, &["9000-9099"]));
            Ok(())
        },
        |stage| {
            let _application = Report::start(&stage.sidecar.pod, any(PROXY))?;
            few(stage, 9042, Outcome::all_exact)
        },
    );
}

#[test]
fn trust_bind() {
    section(
        &BIND,
        |_, config| {
            config.trust.push(Trust::uid(UID));
            Ok(())
        },
        |stage| {
            let pod = &stage.sidecar.pod;
            let _application = Report::start(pod, any(APPLICATION))?;
            let routes = local_routes(15001, APPLICATION);
            let proxy = roles::proxy(stage.directory, pod, Path::new(PLAYGROUND), &routes)?;
            for target in Sidecar::targets(15001) {
                few_to(&stage.sidecar.client, target).all_exact()?;
            }
            proxy.stop()?;
            Ok(())
        },
    );
}

#[test]
fn trust_bind_with_a_source_of_its_own() {
    section(
        &BIND,
        |_, config| {
            config.trust.push(Trust {
                local_source: vec!["127.0.0.6".parse()?, "::6".parse()?],
                ..Trust::uid(UID)
            });
            Ok(())
        },
        |_| Ok(()),
    );
}

#[test]
fn trust_toa_signed_and_not() {
    section(
        &[],
        |stage, config| {
            let keys = stage.directory.join("keys");
            std::fs::write(&keys, "00112233445566778899aabbccddeeff\n")?;
            config.trust.extend(Trust::sources(SENDERS));
            config.trust.extend(Trust::signers(["198.51.100.0/24"]));
            config.toa.keys = Some(keys);
            Ok(())
        },
        |_| Ok(()),
    );
}

#[test]
fn carry_toa() {
    section(
        &BIND,
        |_, config| {
            config.trust.push(Trust::uid(UID).reach("carry"));
            config.carry = Some(Carry {
                toa: CarryToa {
                    to: SENDERS.map(String::from).into(),
                    ..CarryToa::default()
                },
                ..Carry::default()
            });
            Ok(())
        },
        |_| Ok(()),
    );
}

#[test]
fn carry_node() {
    section(
        &[program::NODE, program::LEAVE],
        |stage, config| {
            let pod = &stage.sidecar.pod;
            config.carry = Some(Carry {
                node: vec![CarryNode::new(pod, Sidecar::INTERFACE, &["30000-32767"])],
                ..Carry::default()
            });
            Ok(())
        },
        |_| Ok(()),
    );
}

#[test]
fn unwrap() {
    section(
        &[program::UNWRAP, program::ANSWER],
        |stage, config| {
            config.trust.extend(Trust::sources(SENDERS));
            let pod = &stage.sidecar.pod;
            config
                .unwrap
                .push(Unwrap::new(pod, Sidecar::INTERFACE, &["8080"]));
            Ok(())
        },
        |stage| {
            let _application = Report::start(&stage.sidecar.pod, any(APPLICATION))?;
            header_is_taken_off(stage, APPLICATION)
        },
    );
}

#[test]
fn relay() {
    section(
        &SOURCE,
        |stage, config| {
            config.trust.extend(Trust::sources(SENDERS));
            let upstream = (Family::V4.localhost(), APPLICATION).into();
            let relay = Relay::proxy(&stage.sidecar.pod, any(8000), upstream, "reveal");
            config.relay.push(relay);
            Ok(())
        },
        |stage| {
            let _application = Report::start(&stage.sidecar.pod, any(APPLICATION))?;
            header_is_taken_off(stage, 8000)
        },
    );
}

/// The application is told the client of a PROXY header.
fn header_is_taken_off(stage: &Stage<'_>, port: u16) -> Result<()> {
    for family in Family::ALL {
        let target: SocketAddr = (Sidecar::address(family), port).into();
        let client = SocketAddr::new(family.client(6), 4711);
        let mut stream = stage
            .sidecar
            .client
            .enter(|| TcpStream::connect_timeout(&target, SOON.here()))?;
        stream.set_read_timeout(Some(SOON.here()))?;
        stream.write_all(&v2(client, target))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let seen: Seen = serde_json::from_str(&line).with_context(|| format!("{line:?}"))?;
        ensure!(
            seen.accepted == client && seen.peername == client,
            "{client} was seen as {seen:?}"
        );
    }
    Ok(())
}

#[test]
fn policy() {
    section(
        &[program::GUARD],
        |_, config| {
            config.policy.push(Policy {
                name: "few".into(),
                ports: vec![APPLICATION.to_string()],
                deny: vec!["198.51.100.0/24".into(), "2001:db8:c::/112".into()],
                ..Policy::default()
            });
            Ok(())
        },
        |stage| {
            let client = &stage.sidecar.client;
            let _application = Report::start(&stage.sidecar.pod, any(APPLICATION))?;
            let [v4, v6] = Family::ALL.map(|f| SocketAddr::new(Sidecar::address(f), APPLICATION));
            few_to(client, v4).all_exact()?;
            let denied = client.enter(|| connect_from(Family::V6.client(0), v6));
            let error = denied.err().context("who is denied was let in")?;
            ensure!(error.kind() == ErrorKind::TimedOut, "{error}");
            Ok(())
        },
    );
}

/// Connects from this address, and waits for an answer for as long as one takes that comes.
fn connect_from(source: IpAddr, target: SocketAddr) -> io::Result<()> {
    let domain = Domain::for_address(target);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&target.into(), Limit::millis(1500).here())
}
