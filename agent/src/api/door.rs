//! Lets callers in: as many connections of each as its [`Places`] allow, and none that is idle or slow for long.

use std::{
    convert::Infallible,
    future::ready,
    os::fd::AsRawFd,
    pin::pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{Request, StatusCode, header::CONNECTION},
    response::{IntoResponse as _, Response},
    serve::Listener,
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::timeout,
};
use tracing::warn;

use super::{
    answer::Failure,
    caller::Caller,
    places::{Account, Places},
};
use crate::observe::{
    api::{ApiLimit, ApiRefusals},
    rate::Rate,
};

/// How long a caller may take to send the head of a request, and so how long a connection may be idle.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last. Then it ends with its answer, which has as long once more.
const LIFE: Duration = Duration::from_secs(60);
/// The same for a caller that is refused and is to be told.
const REFUSED_LIFE: Duration = Duration::from_secs(1);
/// How many of those that are refused are told at a time; the connections of others end without an answer.
const TOLD: usize = 32;
/// When those that are refused may try again.
const AGAIN: Duration = Duration::from_secs(1);

/// The door of the Unix socket and the TCP address.
pub(super) struct Door {
    places: Places,
    told: Arc<Semaphore>,
    refusals: ApiRefusals,
    /// Limits the lines in the log.
    rate: Mutex<Rate>,
}

impl Door {
    /// A door that counts whom it refuses.
    pub(super) fn new(refusals: ApiRefusals) -> Self {
        Self {
            places: Places::default(),
            told: Arc::new(Semaphore::new(TOLD)),
            refusals,
            rate: Mutex::new(Rate::new(5, Duration::from_secs(10), Instant::now())),
        }
    }

    /// Serves `router` to whoever connects, for ever. `who` tells who has connected.
    pub(super) async fn serve<L>(
        &self,
        mut listener: L,
        router: Router,
        who: impl Fn(&L::Io, &L::Addr) -> (Caller, Account),
    ) where
        L: Listener<Io: AsRawFd>,
    {
        let routes = TowerToHyperService::new(router);
        loop {
            let (stream, address) = listener.accept().await;
            let (caller, account) = who(&stream, &address);
            match self.places.take(account, &stream) {
                Ok(place) => {
                    let routes = routes.clone();
                    let service = service_fn(move |mut request: Request<Incoming>| {
                        request.extensions_mut().insert(ConnectInfo(caller));
                        routes.call(request)
                    });
                    tokio::spawn(async move {
                        converse(stream, service, LIFE).await;
                        drop(place);
                    });
                }
                Err(limit) => self.refuse(stream, account, limit),
            }
        }
    }

    /// Tells a caller that it is refused, and has that counted and logged.
    fn refuse<S>(&self, stream: S, account: Account, limit: ApiLimit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.refusals.count(limit);
        let allows = self
            .rate
            .lock()
            .expect("no holder panics")
            .allows(Instant::now());
        if allows {
            warn!(
                "the API refuses a connection of {account}: {}",
                reason(limit)
            );
        }
        let Ok(told) = self.told.clone().try_acquire_owned() else {
            return;
        };
        let service = service_fn(move |_| ready(Ok::<_, Infallible>(refusal(limit))));
        tokio::spawn(async move {
            converse(stream, service, REFUSED_LIFE).await;
            drop(told);
        });
    }
}

/// Answers the requests of a connection.
async fn converse<S>(stream: impl AsyncRead + AsyncWrite + Unpin, service: S, life: Duration)
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    // Nobody is to be told of a connection that fails but its caller.
    if timeout(life, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(life, connection).await;
    }
}

/// The answer to a caller that is refused.
fn refusal(limit: ApiLimit) -> Response {
    let status = match limit {
        ApiLimit::Caller => StatusCode::TOO_MANY_REQUESTS,
        ApiLimit::All | ApiLimit::Files => StatusCode::SERVICE_UNAVAILABLE,
    };
    let failure = Failure::new(status, reason(limit)).retry_after(AGAIN);
    ([(CONNECTION, "close")], failure).into_response()
}

fn reason(limit: ApiLimit) -> &'static str {
    match limit {
        ApiLimit::Caller => "it has as many connections as one caller may have",
        ApiLimit::All => "callers of its kind have as many connections as they may have together",
        ApiLimit::Files => "too many files are open",
    }
}
