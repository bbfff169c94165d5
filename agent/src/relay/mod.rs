//! The relays: proxies within the agent, for what the kernel cannot do. They read PROXY headers and HTTP,
//! balance over upstreams, and tell the next hop of the client as the configuration says.

mod activity;
mod balance;
mod begin;
mod client;
mod connection;
mod copy;
mod health;
pub mod http;
mod listener;
pub mod metrics;
mod pipes;
mod preamble;
mod reason;
mod refuse;
mod service;
mod upstream;

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Handle, Runtime};
use tracing::info;

pub use self::health::reach;
use self::{
    balance::Balancer, listener::Listener, metrics::Metrics, pipes::Pipes, service::Service,
};
use crate::{
    config::{Config, Relay, TrustedSenders},
    connections::{origins::Claims, summary::SummarySender, tlv_store::TlvStore},
    host::{descriptors, inherited::Inherited, netns::Netns},
};

/// All relays of the configuration.
pub struct Relays {
    claims: Arc<dyn Claims>,
    metrics: Metrics,
    tlvs: Arc<TlvStore>,
    summaries: SummarySender,
    listeners: Vec<Listener>,
    /// What listens already and nobody has taken up yet.
    inherited: Inherited,
    /// Threads inside other namespaces, by the namespace's cookie. They outlive their listeners for as long as
    /// connections are in progress.
    runtimes: HashMap<u64, Runtime>,
}

/// For each relay of a configuration, its listening socket and the runtime that is to serve it; `None`: it listens already, or
/// its network namespace is not there yet.
pub struct Prepared(Vec<Option<(TcpListener, Handle)>>);

impl Relays {
    /// No relay yet. The relays keep the TLVs of PROXY headers in `tlvs`, and send to `summaries` what they refuse
    /// and which requests they serve. The first that listen take up the sockets that they inherit.
    pub fn new(
        claims: Arc<dyn Claims>,
        metrics: Metrics,
        tlvs: Arc<TlvStore>,
        summaries: SummarySender,
        inherited: Inherited,
    ) -> Self {
        Self {
            claims,
            metrics,
            tlvs,
            summaries,
            listeners: Vec::new(),
            inherited,
            runtimes: HashMap::new(),
        }
    }

    /// Makes the relays those of this configuration, see [`Relays::prepare`] and [`Relays::commit`].
    ///
    /// # Errors
    ///
    /// When a relay cannot listen; then nothing has changed.
    pub fn apply(&mut self, config: &Config) -> Result<()> {
        let prepared = self.prepare(config)?;
        self.commit(config, prepared);
        Ok(())
    }

    /// Has every relay of this configuration that is new listen. Nobody is served by them yet. Must be called within the
    /// async runtime, where blocking is allowed.
    ///
    /// # Errors
    ///
    /// When a relay cannot listen; then nothing has changed.
    pub fn prepare(&mut self, config: &Config) -> Result<Prepared> {
        // A namespace whose relays and connections are gone needs no threads.
        self.runtimes
            .retain(|_, runtime| runtime.metrics().num_alive_tasks() > 0);
        let mut bound = Vec::new();
        for relay in &config.relay {
            let is_it = |l: &Listener| l.key == key(relay) && !l.is_outdated();
            bound.push(match self.listeners.iter().any(is_it) {
                false if is_there(relay) => Some(self.bind(relay)?),
                _ => None,
            });
        }
        Ok(Prepared(bound))
    }

    /// Makes the relays those of this configuration, for which `prepared` was made. Connections in progress go on as they
    /// are, and a listener that stays misses no connection.
    pub fn commit(&mut self, config: &Config, prepared: Prepared) {
        let senders = Arc::new(TrustedSenders::new(&config.trust));
        descriptors::raise_limit(config.relay.iter().map(|relay| relay.max_connections));
        let mut before = std::mem::take(&mut self.listeners);
        for (relay, bound) in config.relay.iter().zip(prepared.0) {
            let service = Arc::new(self.service(relay, senders.clone(), config.reveal.refuses()));
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
        before.iter().for_each(Listener::close);
        std::mem::take(&mut self.inherited).close();
    }

    /// Whether a relay of this configuration listens in a namespace whose path names another one by now, or does not listen
    /// although its namespace has come.
    pub fn is_outdated(&self, config: &Config) -> bool {
        let listens = |relay: &Relay| self.listeners.iter().any(|l| l.key == key(relay));
        let may_listen = |relay: &Relay| !listens(relay) && is_there(relay);
        self.listeners.iter().any(Listener::is_outdated) || config.relay.iter().any(may_listen)
    }

    /// Stops listening. Connections in progress go on.
    pub fn close(&mut self) {
        self.listeners.clear();
    }

    /// How many connections are open.
    pub fn open(&self) -> u64 {
        self.metrics.open()
    }

    /// What the connections of this relay share from now on.
    fn service(&self, relay: &Relay, senders: Arc<TrustedSenders>, refuses: bool) -> Service {
        Service {
            name: relay.name(),
            senders,
            balancer: Balancer::new(relay.balance, &relay.upstream),
            claims: self.claims.clone(),
            metrics: self.metrics.of(&relay.listen.to_string()),
            tlvs: self.tlvs.clone(),
            summaries: self.summaries.clone(),
            pipes: Pipes::default(),
            refuses,
            relay: relay.clone(),
        }
    }

    /// Binds a relay's listening socket; the result includes the runtime that is to serve it.
    fn bind(&mut self, relay: &Relay) -> Result<(TcpListener, Handle)> {
        let netns = Netns::open_or_current(relay.netns.as_deref())?;
        let claims = &*self.claims;
        let socket = match self.inherited.take(relay.listen, netns.cookie()) {
            Some(listener) => listener::take_up(listener, claims),
            None => netns.run(|| listener::listen(relay.listen, claims)),
        };
        let socket = socket.with_context(|| format!("{} cannot listen", relay.name()))?;
        match &relay.netns {
            None => Ok((socket, Handle::current())),
            Some(_) => Ok((socket, self.inside(&netns)?)),
        }
    }

    /// The runtime whose threads are inside a namespace, as a socket belongs to the namespace of the thread
    /// that makes it.
    fn inside(&mut self, netns: &Netns) -> Result<Handle> {
        if let Some(runtime) = self.runtimes.get(&netns.cookie()) {
            return Ok(runtime.handle().clone());
        }
        // The calling thread is inside, and threads inherit the namespace of the thread that starts them.
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

/// Whether a relay's network namespace is there.
fn is_there(relay: &Relay) -> bool {
    let path = relay.netns.as_deref();
    path.is_none_or(|path| Netns::open(path).is_ok())
}

/// What tells one relay of a configuration from the next, whatever else changes.
fn key(relay: &Relay) -> (Option<PathBuf>, SocketAddr) {
    (relay.netns.clone(), relay.listen)
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
