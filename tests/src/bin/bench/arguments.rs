//! The command line.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use clap::builder::PossibleValuesParser;
use tests::topology::Family;

use crate::cni;
use crate::comparison::{COMPARISONS, Comparison};

/// Measures what truepeer costs: steering, evidence, and getpeername()
#[derive(Parser)]
pub(crate) struct Arguments {
    /// Only this comparison, or the CNI plugin, and not what the agent itself costs; may be repeated
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(names()))]
    pub(crate) only: Vec<String>,
    /// Write the figures to this file, too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// How many times each variant is measured
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// How long each measurement takes
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Connections that are in progress at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) concurrency: u16,
    /// Connect by IPv6
    #[arg(long)]
    pub(crate) ipv6: bool,
}

impl Arguments {
    pub(crate) fn family(&self) -> Family {
        if self.ipv6 { Family::V6 } else { Family::V4 }
    }

    pub(crate) fn comparisons(&self) -> Vec<&'static Comparison> {
        COMPARISONS.iter().filter(|c| self.wants(c.name)).collect()
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    COMPARISONS.iter().map(|c| c.name).chain([cni::NAME])
}

fn seconds(text: &str) -> Result<f64> {
    let seconds: f64 = text.parse()?;
    ensure!(
        (0.1..=3600.0).contains(&seconds),
        "not between 0.1 and 3600"
    );
    Ok(seconds)
}
