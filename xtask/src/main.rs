//! truepeer's chores.

mod process;
mod setup;
mod toolchain;

fn main() -> anyhow::Result<()> {
    setup::toolchain()?;
    Ok(())
}
