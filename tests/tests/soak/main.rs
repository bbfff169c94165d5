//! Everything at once, for as long as one likes: see [`tests::soak`].

use std::path::Path;

use tests::host::scenario;

#[test]
fn everything_at_once() {
    scenario(|directory| {
        let program = Path::new(env!("CARGO_BIN_EXE_playground"));
        tests::soak::run(directory, program)
    });
}
