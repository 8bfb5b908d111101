//! `agentctl plan`

use std::path::PathBuf;

use agentd_protocol::api::Plan;
use agentd_protocol::exit_code::Exit;

use crate::client::{Client, Error};
use crate::out::Out;
use crate::status::{columns, word};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  agentctl plan                   what is left to do for the newest version
  agentctl plan stack.toml        what an edited file would do

Applies nothing. Branches are not asked for: one that is followed already counts as unchanged.

Exit codes: 0 (also when there is nothing to do), 3 the file does not validate, 4 no agentd answers")]
pub(crate) struct Args {
    /// The whole plan as one JSON object
    #[arg(long)]
    json: bool,
    /// A stack file that is not in force yet; without it the newest version
    file: Option<PathBuf>,
}

/// What applying the document would do, removals first. Nothing is applied.
pub(crate) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let plan: Plan = match &args.file {
        None => client.get("/v1/plan").await?,
        Some(file) => match crate::check::stack(file, out) {
            Some(stack) => client.post_body("/v1/plan", &stack).await?,
            None => return Ok(Exit::Invalid),
        },
    };
    if args.json {
        out.line(serde_json::to_string_pretty(&plan).expect("a plan is plain JSON"));
        return Ok(Exit::Ok);
    }
    if plan.steps.is_empty() {
        out.line("nothing to do");
    } else {
        let rows: Vec<Vec<String>> =
            plan.steps.iter().map(|step| vec![word(&step.act), step.service.to_string(), step.why.clone()]).collect();
        out.line(columns(&rows).trim_end());
    }
    for note in &plan.notes {
        out.line(format_args!("note: {note}"));
    }
    Ok(Exit::Ok)
}
