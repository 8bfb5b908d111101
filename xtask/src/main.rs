//! The one door to building and checking: `cargo xtask VERB`. Depends on next to nothing, as it is what a fresh machine
//! builds first.

mod ci;
mod command;
mod console;
mod demo;
mod doors;
mod figures;
mod fuzz;
mod http;
mod package;
mod setup;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use console::say;

const USAGE: &str = "\
usage: cargo xtask VERB
  ci         everything a change has to pass: format, tidy, lints, build, licences, docs, both test doors
  test       every test that needs no root
  test-root  every test that needs root; refuses to start without it
  demo       runs the three applications of examples/ until Ctrl-C; `cargo xtask demo --help` tells more
  figures    measures memory, idle CPU, restarts, adoption and redeploys under load on this machine; takes 4 min
  figures --control [--release] [--hosts N] [--rounds N]
             measures controld with a simulated fleet of 1,000 hosts; takes 6 min
  bench      measures the release build beside nginx, Caddy and Unbound; takes 5 min after the build
  package    builds a Debian package; `cargo xtask package --help` tells more
  fuzz       strangers' bytes against the verifier and the readers of messages, a minute each unless told otherwise
  tidy       rules about the tree: arrows between rooms, sizes, banned calls and words
  setup      installs what is missing on this machine";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let root = workspace_root()?;
    let verb = arguments.first().map(String::as_str);
    let rest = arguments.get(1..).unwrap_or_default();
    match (verb, rest) {
        (Some("test"), filters) => doors::rootless(&root, filters).map(drop),
        (Some("test-root"), filters) => doors::root(&root, filters).map(drop),
        (Some("demo"), options) => demo::run(&root, options),
        (Some("package"), options) => package::run(&root, options),
        (Some("ci"), []) => ci::run(&root),
        (Some("figures"), []) => figures::run(&root),
        (Some("figures"), [first, options @ ..]) if first == "--control" => figures::control::run(&root, options),
        (Some("bench"), []) => figures::bench::run(&root),
        (Some("fuzz"), options) => fuzz::run(&root, options),
        (Some("tidy"), []) => tidy::run(&root),
        (Some("setup"), []) => setup::run(&root),
        (Some("help" | "--help" | "-h"), _) => {
            say(USAGE);
            Ok(())
        }
        (Some(_), _) => bail!("no such verb: {}\n{USAGE}", arguments.join(" ")),
        (None, _) => bail!("no verb given\n{USAGE}"),
    }
}

/// The folder of the workspace's Cargo.toml; cargo tells where this crate stands.
fn workspace_root() -> Result<PathBuf> {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").context("start it as `cargo xtask`")?;
    Ok(Path::new(&here).parent().context("xtask has no folder above it")?.to_owned())
}
