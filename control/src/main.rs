//! `controld`: the control server and its command line. Parses, then hands over to the library.

use std::process::ExitCode;

use agentd_control::cli::{Cli, run};
use clap::Parser;

fn main() -> ExitCode {
    agentd_sys::process::unblock_signals();
    run(Cli::parse()).into()
}
