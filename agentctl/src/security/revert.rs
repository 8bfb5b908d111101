//! `agentctl security revert`

use agentd_protocol::api::SecurityDone;
use agentd_protocol::exit_code::Exit;

use crate::client::{Client, Error};
use crate::out::Out;

pub(super) async fn run(client: &Client, out: &mut Out) -> Result<Exit, Error> {
    let done: SecurityDone = client.post("/v1/security/revert").await?;
    out.line(done.message);
    Ok(Exit::Ok)
}
