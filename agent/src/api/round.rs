//! Answers that cost much, found once at a time for all who wait for them.

use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Error, Result};
use tokio::{
    sync::{Notify, oneshot},
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

/// How much longer than the last round the pause after it is: callers can keep a fifth of one processor busy.
const PAUSE: u32 = 4;

/// What is found for all who wait for it. A round begins after the last of those has asked whom it answers, so no answer is
/// older than its question; and it goes on when they break off, so that they cannot have many rounds at once.
#[derive(Debug)]
pub(super) struct Rounds<T>(Arc<Inner<T>>);

impl<T> Default for Rounds<T> {
    fn default() -> Self {
        Self(Arc::new(Inner {
            queue: Mutex::new(Queue {
                waiting: Vec::new(),
                is_served: false,
                due: Instant::now(),
            }),
            urgent: Notify::new(),
        }))
    }
}

#[derive(Debug)]
struct Inner<T> {
    queue: Mutex<Queue<T>>,
    /// Wakes up a pausing task.
    urgent: Notify,
}

#[derive(Debug)]
struct Queue<T> {
    /// Those whom the next round answers.
    waiting: Vec<oneshot::Sender<Found<T>>>,
    /// Whether there is a task that makes the rounds.
    is_served: bool,
    /// When the next round may begin.
    due: Instant,
}

/// What was found, or why nothing was.
type Found<T> = Result<Arc<T>, String>;

impl<T: Send + Sync + 'static> Rounds<T> {
    /// What `find`, which may block and is the same for all, finds from now on. Who `is_urgent` does not wait for the pause between two rounds.
    ///
    /// # Errors
    ///
    /// When `find` fails.
    pub(super) async fn next(
        &self,
        is_urgent: bool,
        find: impl Fn() -> Result<T> + Send + Sync + 'static,
    ) -> Result<Arc<T>> {
        let (sender, receiver) = oneshot::channel();
        let is_served = {
            let mut queue = self.0.queue();
            queue.waiting.push(sender);
            std::mem::replace(&mut queue.is_served, true)
        };
        if is_urgent {
            self.0.urgent.notify_one();
        }
        if !is_served {
            tokio::spawn(self.0.clone().serve(Arc::new(find)));
        }
        receiver.await?.map_err(Error::msg)
    }
}

impl<T: Send + Sync + 'static> Inner<T> {
    /// Makes rounds until nobody waits.
    async fn serve(self: Arc<Self>, find: Arc<impl Fn() -> Result<T> + Send + Sync + 'static>) {
        loop {
            let due = self.queue().due;
            tokio::select! {
                biased;
                () = self.urgent.notified() => {}
                () = sleep_until(due) => {}
            }
            let Some(waiting) = self.queue().begin() else {
                return;
            };
            let began = Instant::now();
            let find = find.clone();
            let found = match spawn_blocking(move || find()).await {
                Ok(found) => found.map(Arc::new).map_err(|error| format!("{error:#}")),
                Err(error) => Err(error.to_string()),
            };
            self.queue().due = Instant::now() + began.elapsed() * PAUSE;
            for one in waiting {
                // It may have lost patience.
                let _ = one.send(found.clone());
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().expect("no holder panics")
    }
}

impl<T> Queue<T> {
    /// Those whom a round is to answer; `None`: nobody waits any more.
    fn begin(&mut self) -> Option<Vec<oneshot::Sender<Found<T>>>> {
        self.waiting.retain(|one| !one.is_closed());
        self.is_served = !self.waiting.is_empty();
        self.is_served.then(|| std::mem::take(&mut self.waiting))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        thread,
        time::Duration,
    };

    use anyhow::bail;
    use futures_util::future::join_all;
    use tokio::time::timeout;

    use super::*;

    const COST: Duration = Duration::from_millis(20);

    /// Something that costs time, and the number of times that it was found.
    fn costly() -> (Arc<AtomicU32>, impl Fn() -> Result<u32> + Clone) {
        let times = Arc::new(AtomicU32::new(0));
        let count = times.clone();
        let find = move || {
            thread::sleep(COST);
            Ok(count.fetch_add(1, Ordering::Relaxed) + 1)
        };
        (times, find)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn those_who_wait_share_what_is_found_after_they_asked() {
        let rounds = Rounds::default();
        let (times, find) = costly();
        let all = join_all((0..100).map(|_| rounds.next(false, find.clone()))).await;
        let last = all.into_iter().map(|found| *found.unwrap()).max().unwrap();
        assert!(last <= 2, "{last} rounds");
        let again = rounds.next(false, find).await.unwrap();
        assert_eq!(*again, times.load(Ordering::Relaxed));
        assert_eq!(*again, last + 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn there_is_a_pause_between_rounds_but_not_for_who_is_urgent() {
        let rounds = Rounds::default();
        let (_, find) = costly();
        let began = Instant::now();
        for _ in 0..3 {
            rounds.next(false, find.clone()).await.unwrap();
        }
        assert!(
            began.elapsed() >= COST * (3 + 2 * PAUSE),
            "{:?}",
            began.elapsed()
        );

        let slow = |_: &str| {
            thread::sleep(Duration::from_millis(500));
            Ok(0)
        };
        let rounds = Rounds::default();
        rounds.next(false, move || slow("the first")).await.unwrap();
        let pause = Duration::from_millis(500) * PAUSE;
        let urgent = timeout(pause, rounds.next(true, move || slow("the urgent one")));
        assert_eq!(*urgent.await.unwrap().unwrap(), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_breaks_off_causes_no_further_round() {
        let rounds = Rounds::default();
        let (times, find) = costly();
        for _ in 0..20 {
            let _ = timeout(Duration::from_millis(1), rounds.next(false, find.clone())).await;
        }
        rounds.next(true, find).await.unwrap();
        let times = times.load(Ordering::Relaxed);
        assert!(times <= 3, "{times} rounds");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_failure_is_told_and_the_next_round_goes_on() {
        let (times, find) = costly();
        let find = move || match find()? {
            1 => bail!("gone"),
            time => Ok(time),
        };
        let rounds = Rounds::default();
        let failed = rounds.next(true, find.clone()).await;
        assert_eq!(failed.unwrap_err().to_string(), "gone");
        assert_eq!(*rounds.next(true, find).await.unwrap(), 2);
        assert_eq!(times.load(Ordering::Relaxed), 2);
    }
}
