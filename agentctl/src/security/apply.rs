//! `agentctl security apply`: shows the plan, asks where somebody would be cut off, starts the trial and watches it.

use std::io::{BufRead as _, IsTerminal as _, stdin, stdout};
use std::time::Duration;

use agentd_protocol::api::{CheckName, SecurityDone, SecurityPlan, SecurityStatus};
use agentd_protocol::exit_code::Exit;
use agentd_protocol::stack::Span;

use super::{Wanted, check_name, page, span};
use crate::client::{Client, Error};
use crate::out::Out;
use crate::screen::Screen;

const POLL: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  agentctl security apply --mode tunnel
  agentctl security apply --mode daemon-port --ssh 203.0.113.0/24 --window 5m
  agentctl security apply --mode tunnel --phrase \"block ssh from 198.51.100.20\"

On a terminal it shows the plan, asks to agree to what it found on this host, and, where somebody's SSH would end, for a \
phrase that says so. Then the mode is on \
trial: keep it with `agentctl security confirm` from a NEW connection. Without a terminal the mode or the networks must \
be given, and the phrase or --accept where one is needed; `agentctl security plan` says so.

Exit codes: 0 it is in force or on trial, 1 nothing was changed, or the trial was not confirmed (on a terminal), 4 no \
agentd answers")]
pub(super) struct Args {
    #[command(flatten)]
    wanted: Wanted,
    /// How long the trial lasts
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = span)]
    window: Span,
    /// Typed by who ends somebody's SSH on purpose; the refusal says which
    #[arg(long)]
    phrase: Option<String>,
    /// Agree to what the plan asks about this host, all of it
    #[arg(long)]
    accept: bool,
    /// Go on against what the plan refuses for this host; it is written down in the events
    #[arg(long)]
    force: bool,
    /// Go on though this check is red
    #[arg(long, value_name = "NAME", value_parser = check_name)]
    without_check: Vec<CheckName>,
}

pub(super) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let is_terminal = stdin().is_terminal() && stdout().is_terminal();
    if !is_terminal && args.wanted.names_nothing() {
        out.complain("agentctl: without a terminal, say what is wanted: --mode MODE, --ssh NETWORK");
        return Ok(Exit::Usage);
    }
    let mut order = args.wanted.order();
    order.window_ms = Some(args.window.as_ms());
    order.phrase = args.phrase.clone();
    order.accept = args.accept;
    order.force = args.force;
    order.without_checks = args.without_check.clone();
    if is_terminal {
        let plan: SecurityPlan = client.post_body("/v1/security/plan", &order).await?;
        let screen = Screen::of_stdout();
        page::plan(&plan).iter().for_each(|line| out.line(line.shown(screen)));
        if !plan.asks.is_empty() && !order.accept {
            out.raw(format_args!("\nsee what it asks first. To agree, type `yes`: "));
            order.accept = typed().as_deref() == Some("yes");
        }
        if let (Some(phrase), None) = (&plan.phrase, &order.phrase) {
            out.raw(format_args!("\nsomebody's SSH ends with this. To go on, type `{phrase}`: "));
            order.phrase = typed();
        }
    }
    let done: SecurityDone = client.post_body("/v1/security/apply", &order).await?;
    page::checks(&done.checks).iter().for_each(|line| out.line(line.shown(Screen::Plain)));
    out.line(&done.message);
    match done.trial {
        Some(trial) if is_terminal => watch(client, &trial.tx, out).await,
        Some(_) | None => Ok(Exit::Ok),
    }
}

fn typed() -> Option<String> {
    let mut line = String::new();
    // Nothing typed and nothing readable are the same refusal.
    stdin().lock().read_line(&mut line).ok()?;
    Some(line.trim().to_owned())
}

/// Until it is confirmed from elsewhere, or over.
async fn watch(client: &Client, tx: &str, out: &mut Out) -> Result<Exit, Error> {
    loop {
        let status: SecurityStatus = client.get("/v1/security").await?;
        match status.trial {
            Some(trial) if trial.tx == tx => {
                out.raw(format_args!("\r{:>4} s left, {} comes back then ", trial.left_ms.div_ceil(1_000), trial.from));
            }
            Some(_) | None => {
                out.line("");
                let last = status.last.unwrap_or_default();
                out.line(format_args!("{}: {last}", status.mode));
                return Ok(if last.ends_with("confirmed") { Exit::Ok } else { Exit::Failed });
            }
        }
        tokio::time::sleep(POLL).await;
    }
}
