//! One accepted connection, from its first byte to its last.

use std::{net::SocketAddr, sync::Arc};

use tokio::{net::TcpStream, sync::watch};

use super::{
    begin::{Beginning, begin},
    copy, http,
    refuse::{Refused, abandon, refuse, reset},
    service::Service,
    upstream,
};
use crate::config::Protocol;

/// Relays a connection to its end. `peer` is what `accept()` returned. `settings` changes with the
/// configuration, and closes with the listener.
pub(super) async fn serve(
    service: &Arc<Service>,
    stream: TcpStream,
    peer: SocketAddr,
    settings: watch::Receiver<Arc<Service>>,
) {
    let _open = service.metrics.opened();
    let beginning = match begin(service, &stream, peer).await {
        Ok(Ok(beginning)) => beginning,
        Ok(Err(refused)) => return refuse(service, &stream, peer, refused),
        Err(error) => return abandon(service, &stream, peer, &error),
    };
    match service.relay.protocol {
        Protocol::Tcp => tcp(service, &stream, peer, &beginning).await,
        Protocol::Http(http) => {
            // Apart, so that connections over TCP need no room for it.
            Box::pin(http::serve(
                service.clone(),
                http,
                stream,
                beginning,
                settings,
            ))
            .await;
        }
    }
}

/// Connects to an upstream, and copies both ways.
async fn tcp(service: &Service, stream: &TcpStream, peer: SocketAddr, beginning: &Beginning) {
    let upstream = match upstream::open(service, beginning, &beginning.client).await {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(reason)) => {
            let refused = Refused {
                reason,
                client: Some(beginning.client),
            };
            return refuse(service, stream, peer, refused);
        }
        Err(error) => return abandon(service, stream, peer, &error),
    };
    if let Err(error) = copy::both(service, stream, &upstream).await {
        // One end broke off, so the other must not look as if it had ended in good order.
        reset(&upstream);
        abandon(service, stream, peer, &error);
    }
}
