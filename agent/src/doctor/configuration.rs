//! What is valid in the configuration, and probably not meant.

use super::check::{Check, Outcome};
use crate::config::{Config, Doubt};

pub(super) fn check(config: &Config) -> Vec<Check> {
    config.doubts().into_iter().map(wrong).collect()
}

fn wrong(doubt: Doubt) -> Check {
    Check::wrong(
        Outcome::Warn,
        doubt.section,
        doubt.reason,
        doubt.consequence,
        doubt.remedy,
    )
}
