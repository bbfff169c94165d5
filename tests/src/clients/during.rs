//! Connections that are made all the time while something is done.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::clients::load::{Load, Outcome};
use crate::host::netns::Netns;
use crate::wait::eventually;

/// What has become of the connections so far.
pub struct Progress<'a>(&'a Mutex<Outcome>);

impl Progress<'_> {
    /// Waits until more of them were made, and their clients known, `when` something is the case.
    pub fn more(&self, when: &str) -> Result<()> {
        let before = self.kept();
        let what = format!("connections {when}");
        eventually(&what, || Ok((self.kept() > before).then_some(())))
    }

    fn kept(&self) -> usize {
        self.0.lock().expect("no worker panics").kept()
    }
}

impl Load {
    /// Runs `body` while this load is made from `netns` again and again, for the first time before it begins. Returns
    /// what became of the connections, too.
    pub fn during<T>(
        &self,
        netns: &Netns,
        body: impl FnOnce(&Progress<'_>) -> Result<T>,
    ) -> Result<(T, Outcome)> {
        let done = AtomicBool::new(false);
        let total = Mutex::new(Outcome::default());
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let outcome = self.run(netns);
                    total.lock().expect("no worker panics").merge(outcome);
                }
            });
            let progress = Progress(&total);
            let result = progress.more("at first").and_then(|()| body(&progress));
            done.store(true, Ordering::Relaxed);
            result
        });
        let outcome = total.into_inner().expect("no worker panics");
        Ok((result.with_context(|| format!("{outcome:?}"))?, outcome))
    }
}
