//! A pod as Istio makes it: redirected by iptables to Envoy, which has no capability. With one listener
//! filter more, and the agent outside of the pod, the application sees its clients.

mod stage;

use anyhow::ensure;
use tests::agent::Agent;
use tests::agent::records::no_origins;
use tests::host::scenario;
use tests::topology::istio;

use self::stage::Pod;

#[test]
fn pod() {
    scenario(|directory| {
        let pod = Pod::new(directory)?;
        let envoy = pod.envoy(|_| Ok(()))?;
        pod.sees_envoy()?;
        let agent = pod.agent()?;
        // The address that Istio has Envoy bind to is no client's.
        pod.sees_envoy()?;
        envoy.stop()?;

        let envoy = pod.envoy(istio::patch)?;
        pod.sees_clients()?;
        pod.knows_clients(&agent)?;
        pod.reaches_others()?;
        pod.reaches_itself()?;
        envoy.stop()?;
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// A killed agent's programs go on. A stopped one has removed them: the kernel refuses Envoy the
/// client's address, and Envoy does not connect without it. The next agent mends that.
#[test]
fn without_the_agent() {
    scenario(|directory| {
        let pod = Pod::new(directory)?;
        let agent = pod.agent()?;
        let envoy = pod.envoy(istio::patch)?;
        let mut config = agent.kill()?;
        pod.sees_clients()?;
        // First an agent stops that keeps its programs,
        config.agent.keep = true;
        let agent = Agent::start(directory, config)?;
        pod.sees_clients()?;
        let mut config = agent.config().clone();
        ensure!(agent.stop()?.success(), "the agent's exit status");
        pod.sees_clients()?;
        // and then one that removes them.
        config.agent.keep = false;
        let agent = Agent::start(directory, config.clone())?;
        pod.sees_clients()?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        pod.refuses_clients()?;
        pod.reaches_others()?;
        let agent = Agent::start(directory, config)?;
        pod.sees_clients()?;
        envoy.stop()?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
