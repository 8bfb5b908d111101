//! `agentctl shutdown`: everything stops, keeper included, then the manager ends.

use std::time::{Duration, Instant};

use agentd_protocol::api::Accepted;
use agentd_protocol::exit_code::Exit;

use crate::client::{Client, Error};
use crate::out::Out;

/// Longest wait for the manager to end: its services' drains and stop timeouts together.
const LIMIT: Duration = Duration::from_secs(10 * 60);
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The host goes down: nothing is amiss when no agentd runs
    #[arg(long, hide = true)]
    host: bool,
}

pub(crate) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    match client.post::<Accepted>("/v1/down").await {
        Ok(_going) => {}
        // What runs without it is asked to end by the service manager.
        Err(Error::NotRunning { .. }) if args.host => {
            out.line("agentd does not run; services are ended without it, and not drained");
            return Ok(Exit::Ok);
        }
        Err(error) => return Err(error),
    }
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
