//! truepeer.
fn main() {}
