//! The command `truepeer`.

fn main() -> std::process::ExitCode {
    truepeer::cli::main()
}
