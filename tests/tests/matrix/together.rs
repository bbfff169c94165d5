//! All sections at once, with a real connection on each way that a client can come.

use std::process::Command;

use anyhow::{Result, ensure};
use tests::host::turn;

/// The playground's table has every way, and says whether each is right.
#[test]
fn playground() -> Result<()> {
    let _turn = turn()?;
    let playground = Command::new(env!("CARGO_BIN_EXE_playground"))
        .arg("--once")
        .output()?;
    println!("{}", String::from_utf8_lossy(&playground.stdout));
    ensure!(
        playground.status.success(),
        "{}: {}",
        playground.status,
        String::from_utf8_lossy(&playground.stderr)
    );
    Ok(())
}
