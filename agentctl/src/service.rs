//! The verbs that act on one service: `stop`, `start`, `restart`, `rollback`, `unpin`, `prune`. Each returns when it has
//! been done, with the manager's own sentence.

use agentd_protocol::api::Accepted;
use agentd_protocol::exit_code::Exit;

use crate::client::{Client, Error};
use crate::out::Out;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As `agentctl status` lists it
    service: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RollbackArgs {
    /// As `agentctl status` lists it
    service: String,
    /// Its number; without it the newest other program that served before the one that runs
    #[arg(long)]
    release: Option<u64>,
}

pub(crate) async fn run(client: &Client, args: &Args, verb: &str, out: &mut Out) -> Result<Exit, Error> {
    let done: Accepted = client.post(&format!("/v1/services/{}/{verb}", args.service)).await?;
    out.line(done.message);
    Ok(Exit::Ok)
}

pub(crate) async fn rollback(client: &Client, args: &RollbackArgs, out: &mut Out) -> Result<Exit, Error> {
    let query = args.release.map(|release| format!("?release={release}")).unwrap_or_default();
    let done: Accepted = client.post(&format!("/v1/services/{}/rollback{query}", args.service)).await?;
    out.line(done.message);
    Ok(Exit::Ok)
}
