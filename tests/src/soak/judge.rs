//! Whether what became of a connection was promised, by what changed while it was open.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::promise::{Change, May, Whose, may};
use super::way::{Seen, Way};
use crate::addresses::Family;
use crate::wait::Limit;

/// How much of what changed before a connection is told with what was not promised of it.
const RECENT: Duration = Duration::from_secs(30);

/// How long after a change a connection that is older may learn what became of it: what is in its buffers comes first, two
/// blocks of which each may be read half a second after the one before.
const AFTERMATH: Limit = Limit::secs(3);

/// A connection that has ended.
pub(super) struct Attempt {
    pub(super) way: Way,
    pub(super) family: Family,
    /// When it was begun.
    pub(super) began: Instant,
    /// Whom the application saw, when it said so, and the addresses for people.
    pub(super) seen: Option<(Seen, Instant, String)>,
    /// Payload that was compared here, in bytes.
    pub(super) bytes: u64,
    pub(super) failure: Option<Failure>,
}

/// The step in which a connection is used again, for another request.
pub(super) const NEXT_REQUEST: &str = "next request";

impl Attempt {
    /// Whether it failed between two requests.
    fn is_kept(&self) -> bool {
        let step = self.failure.as_ref().map(|failure| failure.step);
        step == Some(NEXT_REQUEST)
    }
}

/// Why a connection failed.
pub(super) struct Failure {
    /// What was being done.
    pub(super) step: &'static str,
    /// Since when: everything before was good.
    pub(super) since: Instant,
    pub(super) cause: String,
    /// Whether nothing came for too long.
    pub(super) hangs: bool,
    /// Whether a byte was not what had been sent.
    pub(super) is_different: bool,
}

/// A change, and when it was.
struct Moment {
    change: Change,
    what: String,
    from: Instant,
    to: Option<Instant>,
}

/// What became of a connection, and the change that promises it.
pub(super) type Excuse = (Change, String);

/// All that has changed.
#[derive(Default)]
pub(super) struct History(Vec<Moment>);

impl History {
    /// A change begins; returns its number.
    pub(super) fn begin(&mut self, change: Change, what: String) -> usize {
        self.0.push(Moment {
            change,
            what,
            from: Instant::now(),
            to: None,
        });
        self.0.len() - 1
    }

    /// The change with this number is over.
    pub(super) fn end(&mut self, number: usize) {
        self.0[number].to = Some(Instant::now());
    }

    /// By which changes it was promised what became of a connection that has just ended, and what that was.
    ///
    /// # Errors
    ///
    /// When something was not promised, with what changed meanwhile.
    pub(super) fn judge(&self, attempt: &Attempt, now: Instant) -> Result<Vec<Excuse>, String> {
        let mut excuses = Vec::new();
        let mut excuse = |change: Option<Change>, what: &str, who: &str| {
            let change = change.ok_or_else(|| self.tell(attempt, now, &format!("{what}{who}")))?;
            excuses.push((change, what.to_owned()));
            Ok::<_, String>(())
        };
        if let Some((seen, when, who)) = &attempt.seen {
            match seen {
                Seen::Right => {}
                Seen::Unknown => {
                    let began = attempt.began;
                    let change = self.allows(attempt, began, *when, |may| may.be_unknown);
                    excuse(change, "unknown", &format!(": {who}"))?;
                }
                Seen::Wrong => excuse(None, "wrong", &format!(": {who}"))?,
            }
        }
        if let Some(failure) = &attempt.failure {
            let Failure {
                step, cause, since, ..
            } = failure;
            let change = match failure.is_different || failure.hangs {
                true => None,
                false => self.allows(attempt, *since, now, |may| may.fail),
            };
            let after = now.saturating_duration_since(*since).as_secs_f64();
            excuse(
                change,
                &format!("{step}: {cause}"),
                &format!(", after {after:.2} s"),
            )?;
        }
        Ok(excuses)
    }

    /// What was not promised, with what changed meanwhile.
    fn tell(&self, attempt: &Attempt, now: Instant, what: &str) -> String {
        let (way, family) = (attempt.way.name(), attempt.family.name());
        let ago = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        let began = ago(attempt.began);
        let mut text = format!("{way} over {family}, begun {began:.2} s ago: {what}. Changes:");
        for moment in &self.0 {
            let is_old = |to| to < attempt.began && now.saturating_duration_since(to) > RECENT;
            if moment.to.is_some_and(is_old) {
                continue;
            }
            let to = moment
                .to
                .map_or("now".into(), |to| format!("{:.2} s ago", ago(to)));
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "\n    {:.2} s ago until {to}: {}",
                ago(moment.from),
                moment.what
            );
        }
        text
    }

    /// A change between these two instants that allows something for a connection.
    fn allows(
        &self,
        attempt: &Attempt,
        from: Instant,
        to: Instant,
        whose: impl Fn(May) -> Whose,
    ) -> Option<Change> {
        let is_meanwhile = |moment: &&Moment| {
            let over = moment.to.map(|end| {
                if attempt.began <= end {
                    end + AFTERMATH.here()
                } else {
                    end
                }
            });
            moment.from <= to && over.is_none_or(|over| over >= from)
        };
        let is_allowed = |moment: &&Moment| match whose(may(moment.change, attempt.way)) {
            Whose::Nobodys => false,
            Whose::Begun => attempt.began <= moment.from,
            Whose::Kept => attempt.is_kept(),
            Whose::Any => true,
        };
        let mut meanwhile = self.0.iter().filter(is_meanwhile);
        meanwhile.find(is_allowed).map(|moment| moment.change)
    }
}

#[cfg(test)]
mod tests;
