//! `agentctl down`: everything stops, keeper included, then the manager ends.

use std::time::{Duration, Instant};

use agentd_protocol::api::Accepted;
use agentd_protocol::exit_code::Exit;

use crate::client::{Client, Error};
use crate::out::Out;

/// Longest wait for the manager to end: its services' drains and stop timeouts together.
const LIMIT: Duration = Duration::from_secs(10 * 60);
const POLL: Duration = Duration::from_millis(100);

pub(crate) async fn run(client: &Client, out: &mut Out) -> Result<Exit, Error> {
    let _going: Accepted = client.post("/v1/down").await?;
    let start = Instant::now();
    while client.is_up().await {
        if start.elapsed() > LIMIT {
            let cause = "agentd still runs after 10 minutes; `agentctl status` shows what is left".to_owned();
            return Err(Error::Broken { cause });
        }
        tokio::time::sleep(POLL).await;
    }
    out.line("everything is down; data and releases are kept");
    Ok(Exit::Ok)
}
