//! Numbers by which whoever runs scenarios changes them.

use std::error::Error;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};

/// By which share scenarios make fewer connections than by themselves.
const LOAD: &str = "TRUEPEER_LOAD";
/// How many connections a scenario makes, or how many SYNs.
const CONNECTIONS: &str = "TRUEPEER_CONNECTIONS";
/// What a random choice is made from.
const SEED: &str = "TRUEPEER_SEED";
/// How many seconds a soak takes.
const SOAK: &str = "TRUEPEER_SOAK_SECONDS";

/// As many connections, SYNs or rounds as a scenario makes by itself, or that share of them which the variable says, and at
/// least one. A machine that is emulated makes a tenth: there, what takes most time is that there are many.
///
/// # Panics
///
/// When the variable holds something other than a share between 0 and 1.
pub fn usual(count: u32) -> u32 {
    let share: f64 = number(LOAD).expect("a share").unwrap_or(1.0);
    assert!((0.0..=1.0).contains(&share), "{LOAD}={share}");
    ((f64::from(count) * share).ceil() as u32).max(1)
}

/// How many connections or SYNs a scenario is to make; `None`: as many as is [`usual`].
///
/// # Errors
///
/// When the variable holds something else.
pub fn connections<N: FromStr<Err: Error + Send + Sync + 'static>>() -> Result<Option<N>> {
    number(CONNECTIONS)
}

/// The number from which whatever is random in a scenario is made: the variable's, or another one each time. It is printed.
///
/// # Errors
///
/// When the variable holds something else.
pub fn seed() -> Result<u64> {
    let now = std::time::UNIX_EPOCH.elapsed()?.as_secs();
    let seed = number(SEED)?.unwrap_or(now);
    println!("{SEED}={seed}");
    Ok(seed)
}

/// How long a soak takes; `None`: as long as by itself.
///
/// # Errors
///
/// When the variable holds something else.
pub fn soak() -> Result<Option<Duration>> {
    Ok(number(SOAK)?.map(Duration::from_secs))
}

/// The number in a variable, if it is set.
///
/// # Errors
///
/// When it holds something else.
pub fn number<N: FromStr<Err: Error + Send + Sync + 'static>>(name: &str) -> Result<Option<N>> {
    let value = std::env::var_os(name);
    let number = value.map(|value| {
        let text = value.to_string_lossy();
        text.parse().with_context(|| format!("{name}={text}"))
    });
    number.transpose()
}
