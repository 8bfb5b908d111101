//! Runs the vectors of `tests/control-conformance/` against any control server.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use agentd_sys::http;
use agentd_tests::conformance::{Operator, Outcome, Plan, dir, load, run_all};
use anyhow::{Context, Result};
use clap::Parser;
use futures_util::StreamExt;

#[derive(Debug, Parser)]
#[command(
    about = "Runs the agent's recorded calls against a control server",
    after_help = "Example:\n  control-conformance --base-url http://127.0.0.1:7700 --operator ./my-operator\n\n\
                  Exit codes: 0 all passed or were skipped for a capability the server may lack, 1 some failed."
)]
struct Options {
    /// Where the server answers `/v1/…` and `/s/…`, without a slash at the end
    #[arg(long, value_name = "URL")]
    base_url: String,
    /// The program that makes stacks and tokens and publishes there; README.md says how it is called
    #[arg(long, value_name = "PROGRAM")]
    operator: PathBuf,
    /// Given to the operator's program before the verb; may be repeated
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    operator_argument: Vec<String>,
    /// Authorities that the server's certificate is checked with, PEM; else those of the system
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The folder of the vectors
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Only vectors whose name has this in it
    filter: Option<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut out = std::io::stdout().lock();
    match whole(&options, &mut out) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Without a reader there is nobody to tell.
            let _ = writeln!(out, "control-conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn whole(options: &Options, out: &mut impl Write) -> Result<bool> {
    let authorities = options.ca_file.as_ref().map(std::fs::read).transpose().context("read the authorities")?;
    let client =
        if options.base_url.starts_with("https://") { http::with_tls(authorities.as_deref())? } else { http::plain() };
    let plan = Plan {
        base_url: options.base_url.trim_end_matches('/').to_owned(),
        operator: Operator { program: options.operator.clone(), arguments: options.operator_argument.clone() },
        client: client.build()?,
        dir: options.dir.clone().unwrap_or_else(dir),
        run: format!("{}", std::process::id()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut failed, mut passed, mut skipped) = (0, 0, 0);
    let mut vectors = load(&plan.dir)?;
    vectors.retain(|vector| options.filter.as_ref().is_none_or(|filter| vector.name.contains(filter.as_str())));
    let mut outcomes = std::pin::pin!(run_all(&plan, &vectors));
    while let Some((vector, outcome)) = runtime.block_on(outcomes.next()) {
        match outcome {
            Outcome::Passed => {
                passed += 1;
                writeln!(out, "pass  {}", vector.name)?;
            }
            Outcome::Skipped(capability) => {
                skipped += 1;
                writeln!(out, "skip  {}: the server has no `{capability}`", vector.name)?;
            }
            Outcome::Failed(error) => {
                failed += 1;
                writeln!(out, "FAIL  {}: {}\n      {error:#}", vector.name, vector.about)?;
            }
        }
    }
    writeln!(out, "{passed} passed, {failed} failed, {skipped} skipped")?;
    Ok(failed == 0)
}
