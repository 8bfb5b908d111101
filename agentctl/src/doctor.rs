//! `agentctl doctor`: what of this host and this home stands in the way, with its cure. Needs no agent and asks one that
//! runs. What is found out (`gather`) and what it means (`checks`, pure) are apart.

mod checks;
mod control;
mod facts;
mod gather;
mod machine;
mod probe;

use agentd_protocol::exit_code::Exit;
use agentd_protocol::places::Places;
use serde_json::json;

use crate::out::Out;
use crate::screen::{Line, Screen, Style};
use crate::words::many;
use checks::{Check, Verdict};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  agentctl doctor                            this host and the default home
  agentctl --home ./home doctor              before the first start, or when something is wrong
  agentctl doctor --json | jq '.checks[] | select(.verdict == \"problem\")'

One line for each check: `ok`, `note` for what one should know, `problem` for what keeps services
from running, each with its cure. Nothing is changed. Without a running agentd the ports of
agentd.toml, or the defaults, are looked at, and the proxy's default port.

Exit codes: 0 no problem, 6 at least one")]
pub(crate) struct Args {
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// User that services are to run as when agentd is started as root; `each-service`: each its own [default: nobody;
    /// on a system: each-service]
    #[arg(long, value_name = "USER")]
    run_as: Option<String>,
}

pub(crate) fn run(places: &Places, args: &Args, out: &mut Out) -> anyhow::Result<Exit> {
    let facts = gather::facts(places, args.run_as.as_deref())?;
    let checks = checks::checks(&facts);
    let problems = checks.iter().filter(|check| check.verdict == Verdict::Problem).count();
    if args.json {
        let whole = json!({ "home": facts.home.root, "problems": problems, "checks": checks });
        out.line(serde_json::to_string_pretty(&whole)?);
    } else {
        let screen = Screen::of_stdout();
        let room = checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
        checks.iter().flat_map(|check| lines(check, room)).for_each(|line| out.line(line.shown(screen)));
        let notes = checks.iter().filter(|check| check.verdict == Verdict::Note).count();
        out.line(format_args!("{}, {}", many(problems, "problem"), many(notes, "note")));
    }
    Ok(if problems == 0 { Exit::Ok } else { Exit::Degraded })
}

fn lines(check: &Check, room: usize) -> Vec<Line> {
    let (style, word) = match check.verdict {
        Verdict::Ok => (Style::Good, "ok"),
        Verdict::Note => (Style::Busy, "note"),
        Verdict::Problem => (Style::Bad, "problem"),
    };
    let head = Line::new(style, format!("{word:7}  ")).with(Style::Strong, format!("{:room$}  ", check.name));
    let mut lines = vec![head.with(Style::Plain, &check.said)];
    lines.extend(check.cure.as_ref().map(|cure| {
        // Under what was said.
        Line::from(format!("{:1$}cure: {cure}", "", "problem".len() + 2 + room + 2))
    }));
    lines
}
