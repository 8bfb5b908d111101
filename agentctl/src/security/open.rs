//! `agentctl security open`

use agentd_protocol::api::{Accepted, SecurityOpen};
use agentd_protocol::exit_code::Exit;
use agentd_protocol::stack::Span;
use ipnet::IpNet;

use super::{network, span};
use crate::client::{Client, Error};
use crate::out::Out;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  agentctl security open --ssh 198.51.100.20/32 --for 30m

The kernel counts the time down; it ends also when agentd is dead, and at the latest with a restart of the host. \
Sessions that began meanwhile go on.

Exit codes: 0 SSH is let in, 1 nothing is shut or a trial runs, 4 no agentd answers")]
pub(super) struct Args {
    /// Network to let in; may be given several times
    #[arg(long, value_name = "NETWORK", value_parser = network, required = true)]
    ssh: Vec<IpNet>,
    /// At most a day
    #[arg(long = "for", value_name = "TIME", value_parser = span)]
    time: Span,
}

pub(super) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let open = SecurityOpen { ssh: args.ssh.clone(), for_ms: args.time.as_ms() };
    let done: Accepted = client.post_body("/v1/security/open", &open).await?;
    out.line(done.message);
    Ok(Exit::Ok)
}
