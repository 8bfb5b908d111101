//! `agentctl schema`: what docs/stack.schema.json is made from.

use agentd_protocol::exit_code::Exit;

use crate::out::Out;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  agentctl schema > stack.schema.json

For editors that complete and check TOML or JSON by a schema. `agentctl check` finds more.")]
pub(crate) struct Args {}

pub(crate) fn run(Args {}: &Args, out: &mut Out) -> anyhow::Result<Exit> {
    out.line(agentd_document::schema::text().trim_end());
    Ok(Exit::Ok)
}
