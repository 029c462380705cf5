//! The dwcp-observer binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    dwcp_observer::cli::main()
}
