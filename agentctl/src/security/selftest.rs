//! `agentctl security selftest`

use agentd_protocol::api::Selftest;
use agentd_protocol::exit_code::Exit;

use crate::client::{Client, Error};
use crate::out::Out;

pub(super) async fn run(client: &Client, out: &mut Out) -> Result<Exit, Error> {
    let done: Selftest = client.post("/v1/security/selftest").await?;
    out.line(&done.message);
    for address in &done.leaks {
        out.line(format_args!("  {address} answers, and should not"));
    }
    for address in &done.shut {
        out.line(format_args!("  {address} is silent, and should answer"));
    }
    Ok(if done.leaks.is_empty() && done.shut.is_empty() { Exit::Ok } else { Exit::Degraded })
}
