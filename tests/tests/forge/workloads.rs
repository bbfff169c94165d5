//! A user who may make cgroups gives one of them the name of a container, and has no other's name by that.

use std::fs;
use std::net::TcpStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::agent::{Agent, Config, Trust};
use tests::clients::tcp::seen;
use tests::host::cgroup::Cgroup;
use tests::host::netns::Netns;
use tests::host::process::Process;
use tests::host::scenario;
use tests::host::user::{NOBODY, command};
use tests::proxies::any_v4;
use tests::proxies::own::connect_from;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

/// The id of the container.
const CONTAINER: &str = "3c8d64ea";

/// A runtime's directory, with the bundle of a pod's container.
fn runtime(directory: &Path) -> Result<()> {
    let bundle = directory
        .join("io.containerd.runtime.v2.task/k8s.io")
        .join(CONTAINER);
    fs::create_dir_all(&bundle)?;
    let config = json!({"annotations": {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": "nginx",
        "io.kubernetes.cri.sandbox-name": "web-0",
        "io.kubernetes.cri.sandbox-namespace": "shop",
    }});
    Ok(fs::write(bundle.join("config.json"), config.to_string())?)
}

/// A user's application in one of the cgroups, and a connection to it that has an origin.
fn connection(
    directory: &Path,
    pod: &Netns,
    (cgroup, below): (&Cgroup, &str),
    port: u16,
) -> Result<(Process, TcpStream)> {
    let mut command = command(pod, NOBODY, Path::new(env!("CARGO_BIN_EXE_playground")))?;
    command.args(["report", &any_v4(port).to_string()]);
    let mut application = Process::start(&format!("application-{port}"), command, directory)?;
    application.wait_until_it_listens(pod, [any_v4(port)])?;
    cgroup.add(below, application.id())?;
    let client = (Family::V4.client(6), 4711).into();
    let target = (Family::V4.localhost(), port).into();
    let mut stream = pod.enter(|| connect_from(client, target, 0))?;
    let seen = seen(&mut stream)?;
    ensure!(seen.accepted == client, "{seen:?}");
    Ok((application, stream))
}

#[test]
fn by_a_users_cgroup() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let runtimes = directory.join("runtimes");
        runtime(&runtimes)?;
        let mut config = Config::new(directory, [])?;
        config.trust.push(Trust::uid(0));
        config.agent.runtimes = Some(vec![runtimes]);
        let agent = Agent::start(directory, config)?;

        let (roots, users) = (Cgroup::new("roots")?, Cgroup::new("users")?);
        // A container's user may own its cgroup: its name is the runtime's.
        roots.give(CONTAINER, NOBODY)?;
        users.give("given", NOBODY)?;
        let forged = format!("given/{CONTAINER}");
        users.give(&forged, NOBODY)?;
        let honest = connection(directory, pod, (&roots, CONTAINER), 8080)?;
        let forger = connection(directory, pod, (&users, &forged), 8081)?;
        let expected = [(8080, Some("web-0")), (8081, None)];

        let peers = agent.peers()?;
        for (port, name) in expected {
            let found = peers.0.iter().find(|peer| peer.local.port() == port);
            let peer = found.with_context(|| format!("{peers:?}"))?;
            ensure!(peer.pod.as_deref() == name, "{peer:?}");
        }
        drop((honest, forger));
        let lines = eventually("both connections are logged", || {
            let lines = agent.access_log()?;
            Ok((lines.len() >= 2).then_some(lines))
        })?;
        for (port, name) in expected {
            let of_port = |local: &str| local.ends_with(&format!(":{port}"));
            let found = lines
                .iter()
                .find(|line| line["local"].as_str().is_some_and(of_port));
            let line = found.with_context(|| format!("{lines:?}"))?;
            ensure!(line["pod"].as_str() == name, "{line}");
        }
        let counted = agent.metrics()?;
        ensure!(
            counted.contains("truepeer_pod_connections_total{namespace=\"shop\",pod=\"web-0\",container=\"nginx\"} 1\n"),
            "{counted}"
        );
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
