//! `agentctl schema`: what docs/stack.schema.json is made from.

use agentd_protocol::exit_code::Exit;

use crate::out::Out;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(Args {}: &Args, out: &mut Out) -> anyhow::Result<Exit> {
    out.line(agentd_document::schema::text().trim_end());
    Ok(Exit::Ok)
}
