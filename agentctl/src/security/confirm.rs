//! `agentctl security confirm`

use agentd_protocol::api::{SecurityConfirm, SecurityDone};
use agentd_protocol::exit_code::Exit;

use crate::client::{Client, Error};
use crate::out::Out;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  agentctl security confirm

To be given in a NEW connection to the host, or at its console: a session that was there before the trial goes on in any \
mode, so it proves nothing and is refused.

Exit codes: 0 the mode stays, 1 no trial runs or the session proves nothing, 4 no agentd answers")]
pub(super) struct Args {
    /// As `apply` and `status` show it; without it, the one that runs
    tx: Option<String>,
}

pub(super) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let confirm = SecurityConfirm { tx: args.tx.clone() };
    let done: SecurityDone = client.post_body("/v1/security/confirm", &confirm).await?;
    out.line(done.message);
    Ok(Exit::Ok)
}
