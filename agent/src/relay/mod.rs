//! The relay: a TCP proxy of the agent's own, for what the kernel cannot do. It reads PROXY headers and
//! tells the next hop the client, as the configuration says.

mod balance;
mod connection;
mod copy;
mod files;
mod header;
mod health;
mod http;
mod listener;
pub mod metrics;
mod upstream;

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tokio::runtime::{Builder, Handle, Runtime};
use tracing::info;

use self::{balance::Balancer, copy::Pipes, listener::Listener, metrics::Metrics};
use crate::{
    config::{Config, Relay, Trust},
    connections::{
        origins::Claims, summary::SummarySender as Refusals, tlv_store::TlvStore as Kept,
    },
    host::netns::Netns,
};

/// All relays of the configuration.
pub struct Relays {
    claims: Arc<dyn Claims>,
    metrics: Metrics,
    details: Arc<Kept>,
    refusals: Refusals,
    listeners: Vec<Listener>,
    /// By the namespace's cookie: threads that are inside. They stay for the connections in progress.
    runtimes: HashMap<u64, Runtime>,
}

/// What the connections of one relay have in common.
struct Service {
    relay: Relay,
    name: String,
    /// Whose PROXY headers are believed.
    sources: Vec<IpNet>,
    balancer: Balancer,
    claims: Arc<dyn Claims>,
    metrics: metrics::Relay,
    details: Arc<Kept>,
    refusals: Refusals,
    pipes: Pipes,
}

impl Service {
    /// Name of the rule that believes this sender's PROXY header.
    fn trusting_rule(&self, sender: SocketAddr) -> Option<String> {
        let ip = sender.ip().to_canonical();
        let prefixes = self.sources.iter().filter(|prefix| prefix.contains(&ip));
        let longest = prefixes.max_by_key(|prefix| prefix.prefix_len())?;
        Some(Trust::source_rule(longest))
    }
}

impl Relays {
    /// None yet. What headers say besides addresses is kept in `details`, for as long as their origins.
    pub fn new(
        claims: Arc<dyn Claims>,
        metrics: Metrics,
        details: Arc<Kept>,
        refusals: Refusals,
    ) -> Self {
        Self {
            claims,
            metrics,
            details,
            refusals,
            listeners: Vec::new(),
            runtimes: HashMap::new(),
        }
    }

    /// Makes the relays those of this configuration. Connections in progress go on as they are; a
    /// listener that stays misses none. To be called within the async runtime, where blocking is allowed.
    ///
    /// # Errors
    ///
    /// When a relay cannot listen; then nothing has changed.
    pub fn apply(&mut self, config: &Config) -> Result<()> {
        // Those of namespaces that are gone have nothing left to do.
        self.runtimes
            .retain(|_, runtime| runtime.metrics().num_alive_tasks() > 0);
        let key = |relay: &Relay| (relay.netns.clone(), relay.listen);
        let mut new = Vec::new();
        for relay in &config.relay {
            let is_it = |l: &Listener| l.key == key(relay) && !l.is_outdated();
            let bound = match self.listeners.iter().any(is_it) {
                true => None,
                false => Some(self.bind(relay)?),
            };
            new.push((relay, bound));
        }
        files::raise_limit(config.relay.iter().map(|relay| relay.max_connections));
        let mut before = std::mem::take(&mut self.listeners);
        for (relay, bound) in new {
            let service = Arc::new(self.service(relay, &config.trust));
            match bound {
                Some((socket, handle)) => {
                    info!("{} listens", relay.name());
                    let listener = Listener::start(key(relay), socket, service, handle);
                    self.listeners.push(listener);
                }
                None => {
                    let at = before.iter().position(|l| l.key == key(relay));
                    if let Some(at) = at {
                        let mut listener = before.swap_remove(at);
                        listener.serve(service);
                        self.listeners.push(listener);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a named namespace is no longer the one that a relay listens in.
    pub fn is_outdated(&self) -> bool {
        self.listeners.iter().any(Listener::is_outdated)
    }

    /// Listens no more; connections in progress go on.
    pub fn close(&mut self) {
        self.listeners.clear();
    }

    /// How many connections are open.
    pub fn open(&self) -> u64 {
        self.metrics.open()
    }

    fn service(&self, relay: &Relay, trust: &Trust) -> Service {
        Service {
            name: relay.name(),
            sources: trust.sources.clone(),
            balancer: Balancer::new(relay.balance, &relay.upstream),
            claims: self.claims.clone(),
            metrics: self.metrics.of(&relay.listen.to_string()),
            details: self.details.clone(),
            refusals: self.refusals.clone(),
            pipes: Pipes::default(),
            relay: relay.clone(),
        }
    }

    /// A relay's listening socket, and the threads that are to serve it.
    fn bind(&mut self, relay: &Relay) -> Result<(std::net::TcpListener, Handle)> {
        let claims = &*self.claims;
        let listen = || {
            listener::listen(relay.listen, claims)
                .with_context(|| format!("{} cannot listen", relay.name()))
        };
        match &relay.netns {
            None => Ok((listen()?, Handle::current())),
            Some(path) => {
                let netns = Netns::open(path)?;
                let socket = netns.run(listen)?;
                Ok((socket, self.inside(&netns)?))
            }
        }
    }

    /// Threads inside a namespace: sockets belong to that of the thread which makes them.
    fn inside(&mut self, netns: &Netns) -> Result<Handle> {
        if let Some(runtime) = self.runtimes.get(&netns.cookie()) {
            return Ok(runtime.handle().clone());
        }
        // Threads inherit the namespace of the thread that makes them, and the first makes the rest.
        let runtime = netns.run(|| {
            Ok(Builder::new_multi_thread()
                .thread_name("truepeer")
                .enable_all()
                .build()?)
        })?;
        let handle = runtime.handle().clone();
        self.runtimes.insert(netns.cookie(), runtime);
        Ok(handle)
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        for (_, runtime) in self.runtimes.drain() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests;
