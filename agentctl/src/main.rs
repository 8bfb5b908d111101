//! agentctl: asks the agent, and checks what a person wrote before the agent sees it.
//!
//! One verb a file; this one parses the command line and hands over. What a verb prints goes through [`out::Out`],
//! how it ended is an [`Exit`]; an error is printed here with all of its causes.

mod check;
mod explain;
mod out;
mod schema;

use std::process::ExitCode;

use agentd_protocol::exit_code::Exit;
use clap::{Parser, Subcommand};
use out::Out;

/// Talk to the agentd on this host.
#[derive(Debug, Parser)]
#[command(name = "agentctl", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check a stack file and print every problem in it
    Check(check::Args),
    /// Say what a key of a stack file means
    Explain(explain::Args),
    /// Print the JSON Schema of stack files
    Schema(schema::Args),
}

fn main() -> ExitCode {
    let mut out = Out::new();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return command_line(&usage, &mut out).into(),
    };
    let ended = match &cli.verb {
        Verb::Check(args) => check::run(args, &mut out),
        Verb::Explain(args) => explain::run(args, &mut out),
        Verb::Schema(args) => schema::run(args, &mut out),
    };
    // The alternate form of an anyhow error is the whole chain on one line.
    let exit = ended.and_then(|exit| out.finish().map(|()| exit)).unwrap_or_else(|error| {
        out.complain(format_args!("agentctl: {error:#}"));
        Exit::Failed
    });
    exit.into()
}

/// Help and version are answers; anything else about the command line is a complaint.
fn command_line(usage: &clap::Error, out: &mut Out) -> Exit {
    let text = usage.render();
    let text = text.to_string();
    if usage.use_stderr() {
        out.complain(text.trim_end());
        return Exit::Usage;
    }
    out.line(text.trim_end());
    out.finish().map_or(Exit::Failed, |()| Exit::Ok)
}
