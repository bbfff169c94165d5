//! Every program passes the kernel's verifier.

use anyhow::{Result, ensure};
use tests::agent::Visit;

/// The doctor tries each program; what it says is printed: what the verifier did, and how long that took.
#[test]
fn each_is_taken() -> Result<()> {
    let mut refused = Vec::new();
    let mut taken = 0;
    for check in Visit::by(&["--pre"])?.checks {
        println!("{}: {}: {}", check.outcome, check.name, check.reason);
        if check.outcome == "fail" || (check.name == "programs" && check.outcome != "ok") {
            refused.push(check.reason);
        } else if check.name == "programs" {
            taken += 1;
        }
    }
    ensure!(refused.is_empty(), "{}", refused.join("\n"));
    ensure!(taken > 0, "the doctor tried no program");
    Ok(())
}
