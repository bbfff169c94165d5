//! How long something may take, and waits for what has to happen.
//!
//! Every limit is a [`Limit`]: what is ample on a quiet machine like the one that the limits were chosen on, times one
//! [`factor`] for this machine and this moment. Nothing else in the tests may depend on how fast a machine is.

use std::hint::black_box;
use std::io::{self, ErrorKind};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fmt};

use anyhow::{Context, Result, bail};

/// The variable that sets the factor, instead of measuring it.
pub const TIME_FACTOR: &str = "TRUEPEER_TIME_FACTOR";

/// How long an answer, or the effect of a change, may take. It is ample: a scenario that passes never waits for its
/// end.
pub const SOON: Limit = Limit::secs(20);

/// How long [`work`] takes in a debug build on a quiet machine with two processors.
const REFERENCE: Duration = Duration::from_millis(125);

/// How long something may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limit(Duration);

impl Limit {
    /// So many seconds, times the factor.
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds, times the factor.
    pub const fn millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// The limit on this machine.
    pub fn here(self) -> Duration {
        self.0.mul_f64(factor())
    }

    /// The limit on this machine in whole seconds, rounded up, as the agent's configuration has its timeouts.
    pub fn whole_secs(self) -> u32 {
        self.here().as_secs_f64().ceil() as u32
    }

    /// The outcome of a call on a socket whose timeout is this limit. The error of one that timed out names what it
    /// waited for, and for how long.
    ///
    /// # Errors
    ///
    /// That of the call.
    pub fn await_io<T>(self, what: impl fmt::Display, outcome: io::Result<T>) -> Result<T> {
        outcome.map_err(|error| match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => {
                anyhow::Error::new(error).context(format!("{what}: not within {self}"))
            }
            _ => error.into(),
        })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, factor) = (self.0, factor());
        write!(f, "{:.1?} ({limit:?} times {factor:.2})", self.here())
    }
}

/// By what all limits are multiplied: what [`TIME_FACTOR`] says, or how much longer than on the machine of reference
/// a fixed piece of work takes when the process needs its first limit, but at least 1.
///
/// # Panics
///
/// When the variable holds no positive number.
pub fn factor() -> f64 {
    static FACTOR: OnceLock<f64> = OnceLock::new();
    *FACTOR.get_or_init(|| match env::var(TIME_FACTOR) {
        Ok(text) => parse(&text).unwrap_or_else(|error| panic!("{error:#}")),
        Err(_) => measure().max(1.0),
    })
}

fn parse(text: &str) -> Result<f64> {
    let factor: f64 = text
        .parse()
        .with_context(|| format!("{TIME_FACTOR}={text}"))?;
    if !(factor.is_finite() && factor > 0.0) {
        bail!("{TIME_FACTOR}={text}: not a positive number");
    }
    Ok(factor)
}

fn measure() -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() / REFERENCE.as_secs_f64()
}

/// What scenarios spend their time on: computing, and starting processes.
fn work() {
    const STEPS: u64 = 100_000;
    const PROCESSES: u32 = 100;
    for _ in 0..PROCESSES {
        let mut state = 1_u64;
        for step in 0..STEPS {
            state = black_box(
                state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(step),
            );
        }
        // That it ends is all that matters.
        let _ = Command::new("true").status();
    }
}

/// Polls until `check` yields something, which is to happen [`SOON`].
///
/// # Errors
///
/// As those of [`within`].
pub fn eventually<T>(what: &str, check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    within(SOON, what, check)
}

/// Polls until `check` yields something, for as long as `limit` says.
///
/// # Errors
///
/// That of `check`, or one that says what did not happen, how long the wait really was, and what the limit was.
pub fn within<T>(
    limit: Limit,
    what: &str,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    const PAUSE: Duration = Duration::from_millis(10);
    // In this order: the first limit of a process measures the factor.
    let most = limit.here();
    let start = Instant::now();
    loop {
        // Time may be over when a check ends, but what it saw counts.
        let is_over = start.elapsed() > most;
        if let Some(value) = check()? {
            return Ok(value);
        }
        if is_over {
            bail!("{what}: not within {limit}; waited {:.1?}", start.elapsed());
        }
        std::thread::sleep(PAUSE);
    }
}

/// Repeats an attempt to connect while the kernel has no port for it, because an earlier connection between the same
/// addresses has not quite ended; for at most as long as a client waits for an answer.
///
/// # Errors
///
/// That of the last attempt.
pub fn when_a_port_is_free<T>(mut connect: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    const PAUSE: Duration = Duration::from_millis(20);
    let start = Instant::now();
    loop {
        match connect() {
            Err(error)
                if error.kind() == ErrorKind::AddrNotAvailable && start.elapsed() < SOON.here() =>
            {
                std::thread::sleep(PAUSE);
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_is_a_positive_number() {
        assert!(measure() > 0.0);
        assert!(factor() > 0.0);
        assert_eq!(parse("2.5").unwrap(), 2.5);
        for wrong in ["", "fast", "0", "-1", "inf", "NaN"] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("{TIME_FACTOR}={wrong}")), "{error}");
        }
    }

    #[test]
    fn what_does_not_happen_is_told_with_the_limit() {
        let never = within::<()>(Limit::millis(20), "the cows come home", || Ok(None));
        let error = never.unwrap_err().to_string();
        let limit = Limit::millis(20).to_string();
        assert!(
            error.starts_with("the cows come home: not within "),
            "{error}"
        );
        assert!(
            error.contains(&limit) && error.contains("; waited "),
            "{error}"
        );
    }

    #[test]
    fn a_check_is_made_once_more_when_time_is_over() {
        let mut checks = 0;
        let late = within(Limit::millis(5), "the second check", || {
            checks += 1;
            std::thread::sleep(Limit::millis(20).here());
            Ok((checks == 2).then_some(()))
        });
        late.unwrap();
    }

    #[test]
    fn a_socket_that_times_out_is_explained() {
        let limit = Limit::secs(5);
        let outcome: io::Result<()> = Err(ErrorKind::WouldBlock.into());
        let error = limit.await_io("an answer", outcome).unwrap_err();
        assert_eq!(error.to_string(), format!("an answer: not within {limit}"));
        let kind = |error: &anyhow::Error| error.downcast_ref::<io::Error>().unwrap().kind();
        assert_eq!(kind(&error), ErrorKind::WouldBlock);
        let outcome: io::Result<()> = Err(ErrorKind::ConnectionReset.into());
        let error = limit.await_io("an answer", outcome).unwrap_err();
        assert_eq!(kind(&error), ErrorKind::ConnectionReset);
    }
}
