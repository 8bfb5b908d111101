//! `agentctl releases SERVICE`

use agentd_protocol::api::{ReleaseState, ReleaseStatus, Releases};
use agentd_protocol::exit_code::Exit;
use agentd_sys::clock;

use crate::client::{Client, Error};
use crate::out::Out;
use crate::screen::{Screen, Style};
use crate::status::word;
use crate::table::{Cell, Narrow, table};
use crate::words::{ago, harmless, span};

const HEAD: [&str; 6] = ["RELEASE", "COMMIT", "STATE", "BUILT", "TOOK", "WHY"];

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  agentctl releases api
  agentctl rollback api --release 3      goes to one that is `built`

`active` serves (or did, when the service is stopped), `built` is on disk and can be gone back to, `failed` is kept for its \
reason alone. The newest five that are built stay, and the one that serves. TOOK is the time of the build; `-` where an \
older release's output was used again.

Exit codes: 0, 4 no agentd answers, 5 no such service")]
pub(crate) struct Args {
    /// As `agentctl status` lists it
    service: String,
    /// One JSON object, times in ms since 1970
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let found: Releases = client.get(&format!("/v1/services/{}/releases", args.service)).await?;
    if args.json {
        out.line(serde_json::to_string_pretty(&found).expect("releases are plain JSON"));
        return Ok(Exit::Ok);
    }
    if found.releases.is_empty() {
        out.line(format_args!("{} has no release yet; `agentctl status {}` says why", found.service, found.service));
        return Ok(Exit::Ok);
    }
    let screen = Screen::of_stdout();
    let now = clock::real_ns() / 1_000_000;
    let rows = found.releases.iter().map(|release| row(release, now)).collect();
    table(HEAD, rows, Narrow { cut: 1, dropped: &[] }, screen).iter().for_each(|line| out.line(line.shown(screen)));
    Ok(Exit::Ok)
}

fn row(release: &ReleaseStatus, now: u64) -> [Cell; 6] {
    let style = match release.state {
        ReleaseState::Active => Style::Good,
        ReleaseState::Built => Style::Plain,
        ReleaseState::Building => Style::Busy,
        ReleaseState::Failed => Style::Bad,
    };
    let pinned = if release.pinned { "(pinned)" } else { "" };
    [
        release.release.to_string().into(),
        release.commit.short().into(),
        Cell::new(style, format!("{}{pinned}", word(&release.state))),
        release.built_unix_ms.map(|built| ago(now, built)).unwrap_or_default().into(),
        release.took_ms.map(took).unwrap_or_default().into(),
        release.failure.as_deref().map(harmless).unwrap_or_default().into(),
    ]
}

/// Builds of less than a minute to the tenth of a second.
fn took(ms: u64) -> String {
    if ms < 60_000 { format!("{}.{} s", ms / 1_000, ms % 1_000 / 100) } else { span(ms) }
}
