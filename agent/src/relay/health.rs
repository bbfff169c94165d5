//! Active health checks of a relay's upstreams.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use agent_common::proxy::{Endpoints, Peer};
use anyhow::{Context as _, Result};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{self, MissedTickBehavior},
};
use tracing::{info, warn};

use super::{preamble::Preamble, service::Service, upstream::CONNECT_TIMEOUT};
use crate::config::Send;

/// From one check to the next.
const INTERVAL: Duration = Duration::from_secs(2);

/// Checks all upstreams for ever. A single upstream is not checked, as no other could take its place.
pub(super) async fn watch(service: Arc<Service>) {
    let mut tick = time::interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while service.balancer.len() > 1 {
        tick.tick().await;
        let checks = (0..service.balancer.len()).map(|at| check(&service, at));
        futures_util::future::join_all(checks).await;
    }
}

/// Checks one upstream, and notes what came of it.
async fn check(service: &Service, at: usize) {
    let address = service.balancer.address(at);
    let outcome = time::timeout(CONNECT_TIMEOUT, reach(service.relay.send, address)).await;
    let outcome = outcome.context("timed out").flatten();
    service.metrics.set_up(address, outcome.is_ok());
    if service.balancer.set_up(at, outcome.is_ok()) {
        match outcome {
            Ok(()) => info!("{}: {address} is up", service.name),
            Err(error) => warn!("{}: {address} is down: {error:#}", service.name),
        }
    }
}

/// Connects. An upstream that expects a PROXY header gets one that says `LOCAL`, which means a health check.
pub async fn reach(send: Send, upstream: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(upstream).await?;
    let ends = Endpoints {
        source: stream.local_addr()?.into(),
        destination: stream.peer_addr()?.into(),
    };
    let header = Preamble::default().next_header(send, Peer::Local, ends);
    stream.write_all(&header).await?;
    Ok(())
}
