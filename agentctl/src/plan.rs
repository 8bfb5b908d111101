//! `agentctl plan`

use agentd_protocol::api::Plan;
use agentd_protocol::exit_code::Exit;

use crate::client::{Client, Error};
use crate::out::Out;
use crate::status::{columns, word};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The whole plan as one JSON object
    #[arg(long)]
    json: bool,
}

/// What applying the newest document would do, removals first.
pub(crate) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let plan: Plan = client.get("/v1/plan").await?;
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
