//! `agentctl plan`

use std::fmt::Write;

use agentd_protocol::api::Plan;

use crate::client::{Client, Error};
use crate::status::{columns, word};

/// What applying the newest document would do, removals first.
pub(crate) async fn run(client: &Client, json: bool) -> Result<String, Error> {
    let plan: Plan = client.get("/v1/plan").await?;
    if json {
        return Ok(serde_json::to_string_pretty(&plan).expect("a plan is plain JSON") + "\n");
    }
    let mut out = if plan.steps.is_empty() {
        "nothing to do\n".to_owned()
    } else {
        let rows: Vec<Vec<String>> =
            plan.steps.iter().map(|step| vec![word(&step.act), step.service.to_string(), step.why.clone()]).collect();
        columns(&rows)
    };
    for note in &plan.notes {
        writeln!(out, "note: {note}").expect("a String takes every write");
    }
    Ok(out)
}
