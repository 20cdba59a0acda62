//! `vptest`: parse, call the library, print the error chain, return the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    vptest::cli::main()
}
