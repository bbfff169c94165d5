//! `Expect: 100-continue` (RFC 9110, 10.1.1): whether the client is to send the body is for the upstream to say.

use std::{pin::Pin, sync::Arc, time::Duration};

use hyper::{
    Request, StatusCode,
    header::{EXPECT, HeaderMap},
};
use tokio::{sync::Notify, time};

/// How long an upstream may keep the body waiting: it may not know that it is asked, and then wait for the body itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// Returns when the body may be read, upon which hyper tells the client to continue.
pub(super) type Gate = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whether a client waits to be told to continue.
pub(super) fn waits(headers: &HeaderMap) -> bool {
    let expects = headers.get(EXPECT);
    expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// What opens once the upstream that is sent this request wants its body.
pub(super) fn gate<B>(request: &mut Request<B>) -> Gate {
    let asked = Arc::new(Notify::new());
    let asks = asked.clone();
    hyper::ext::on_informational(request, move |answer| {
        if answer.status() == StatusCode::CONTINUE {
            asks.notify_one();
        }
    });
    Box::pin(async move {
        let _ = time::timeout(PATIENCE, asked.notified()).await;
    })
}
