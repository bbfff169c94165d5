//! How long a client's connection may take.

use std::{sync::Mutex, time::Duration};

use tokio::{sync::Notify, time::Instant};

use crate::relay::activity::{Activity, until};

/// By how much a connection with a request in progress outlives the idle timeout, so that the client can be
/// told that the request took too long.
const GRACE: Duration = Duration::from_secs(1);

/// What a connection waits for, and since when.
pub(super) struct Timeouts {
    pub(super) activity: Activity,
    waiting: Mutex<Waiting>,
    /// Wakes [`Timeouts::expired`] when the next head begins.
    head_begins: Notify,
    /// Wakes [`Timeouts::requested`].
    request_begins: Notify,
}

#[derive(Default)]
struct Waiting {
    /// How many requests are in progress.
    requests: usize,
    /// Since when a part of the next request's head is there.
    head: Option<Instant>,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// The rest of a request's head.
    Head,
    /// The next byte.
    Idle,
}

impl Timeouts {
    /// Those of a connection that begins now.
    pub(super) fn start() -> Self {
        Self {
            activity: Activity::start(),
            waiting: Mutex::default(),
            head_begins: Notify::new(),
            request_begins: Notify::new(),
        }
    }

    /// Notes that bytes have arrived.
    pub(super) fn received(&self) {
        self.activity.note();
        let mut waiting = self.waiting.lock().expect("no holder panics");
        if waiting.requests == 0 && waiting.head.is_none() {
            waiting.head = Some(Instant::now());
            self.head_begins.notify_one();
        }
    }

    /// Notes that a request's head is complete.
    pub(super) fn begin(&self) {
        let mut waiting = self.waiting.lock().expect("no holder panics");
        waiting.requests += 1;
        waiting.head = None;
        self.request_begins.notify_one();
    }

    /// Returns once there has been a request. To be called by one task.
    pub(super) async fn requested(&self) {
        self.request_begins.notified().await;
    }

    /// Notes that a request has been answered.
    pub(super) fn end(&self) {
        self.waiting.lock().expect("no holder panics").requests -= 1;
    }

    /// Returns once something has taken too long: a head longer than `head`, or the next byte longer than
    /// `idle`. What has no limit does not count.
    pub(super) async fn expired(&self, head: Option<Duration>, idle: Option<Duration>) -> Expired {
        loop {
            let (deadline, what) = {
                let waiting = self.waiting.lock().expect("no holder panics");
                let idle = |more| idle.map(|limit| self.activity.last() + limit + more);
                match (waiting.requests, waiting.head, head) {
                    (0, Some(since), Some(limit)) => (Some(since + limit), Expired::Head),
                    (0, ..) => (idle(Duration::ZERO), Expired::Idle),
                    _ => (idle(GRACE), Expired::Idle),
                }
            };
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return what;
            }
            tokio::select! {
                () = until(deadline) => {}
                () = self.head_begins.notified() => {}
            }
        }
    }
}
