//! `agentctl security status`

use agentd_protocol::api::SecurityStatus;
use agentd_protocol::exit_code::Exit;

use super::page;
use crate::client::{Client, Error};
use crate::out::Out;
use crate::screen::Screen;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  agentctl security status
  agentctl security status --json

`mode` is what was confirmed; `exposure` is what the kernel lets in at this moment.

Exit codes: 0, 4 no agentd answers, 6 the rules in the kernel are not as confirmed")]
pub(super) struct Args {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let status: SecurityStatus = client.get("/v1/security").await?;
    if args.json {
        out.line(serde_json::to_string_pretty(&status).expect("a status is plain JSON"));
    } else {
        let screen = Screen::of_stdout();
        page::status(&status).iter().for_each(|line| out.line(line.shown(screen)));
    }
    Ok(if status.altered.is_some() { Exit::Degraded } else { Exit::Ok })
}
