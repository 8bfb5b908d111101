//! `agentctl events`

use std::ops::ControlFlow;
use std::time::Duration;

use agentd_protocol::api::{EVENTS_DEFAULT, EVENTS_MAX, Event, KEEP_ALIVE_SECS, NEWEST_EVENT_HEADER, Severity};
use agentd_protocol::exit_code::Exit;
use agentd_protocol::ids::{EventId, ServiceName};
use jiff::tz::TimeZone;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, Error, chain};
use crate::out::Out;
use crate::screen::{Line, Screen, Style};
use crate::time::{self, When, now_unix_ms};
use crate::words::harmless;

/// How long a manager that went away is waited for: a restart takes seconds.
const RETURN_LIMIT: Duration = Duration::from_secs(60);
const RETURN_PAUSE: Duration = Duration::from_millis(250);
/// Three signs of life missed.
const SILENCE_LIMIT: Duration = Duration::from_secs(3 * KEEP_ALIVE_SECS);
/// Bytes of one event; its causes are sentences.
const LINE_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  agentctl events                       the last 50
  agentctl events --since 1h --service api
  agentctl events --follow              and then what happens, until Ctrl-C
  agentctl events --json | jq 'select(.severity == \"error\")'

docs/events.md lists every kind. While it follows, a manager that goes away is waited for 60 s (then exit code 4).")]
pub(crate) struct Args {
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// How many of the newest [default: 50, or all when --since is given]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(EVENTS_MAX)))]
    lines: Option<u32>,
    /// Only what happened since: a duration (90s, 10m, 2h) or an RFC 3339 time
    #[arg(long, value_name = "WHEN")]
    since: Option<When>,
    /// Only this service's
    #[arg(long, value_name = "NAME")]
    service: Option<ServiceName>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let page = Page { json: args.json, screen: Screen::of_stdout() };
    let limit = args.lines.unwrap_or(if args.since.is_some() { EVENTS_MAX } else { EVENTS_DEFAULT });
    let mut query = format!("limit={limit}");
    if let Some(since) = args.since.map(|when| when.unix_ms(now_unix_ms())) {
        query.push_str(&format!("&since={since}"));
    }
    let only = args.service.as_ref().map(|name| format!("&service={name}")).unwrap_or_default();
    if !args.follow {
        let mut stream = Stream::open(client, &format!("{query}{only}")).await?;
        let mut found = 0;
        while let Some(event) = stream.next().await? {
            found += 1;
            out.line(page.line(&event));
        }
        if found == 0 {
            out.complain("agentctl: nothing happened that fits");
        }
        return Ok(Exit::Ok);
    }
    let mut stream = Stream::open(client, &format!("{query}{only}&follow=1")).await?;
    let mut last = stream.newest;
    loop {
        let ended = follow(&mut stream, &mut last, &page, out).await;
        let Ended::Cut { cause } = ended else { return Ok(Exit::Ok) };
        let limit_s = RETURN_LIMIT.as_secs();
        out.complain(format_args!("agentctl: {cause}; waiting {limit_s} s for agentd to come back"));
        let again = format!("after={last}&limit={EVENTS_MAX}{only}&follow=1");
        stream = reopened(client, &again).await?;
    }
}

enum Ended {
    /// Nobody reads what is written.
    Closed,
    Cut {
        cause: String,
    },
}

async fn follow(stream: &mut Stream, last: &mut EventId, page: &Page, out: &mut Out) -> Ended {
    loop {
        // Everything that is here is shown before anything is waited for.
        if out.sync() == ControlFlow::Break(()) {
            return Ended::Closed;
        }
        match timeout(SILENCE_LIMIT, stream.next()).await {
            Ok(Ok(Some(event))) => {
                *last = event.id.max(*last);
                out.line(page.line(&event));
            }
            Ok(Ok(None)) => return Ended::Cut { cause: "agentd has ended".to_owned() },
            Ok(Err(error)) => return Ended::Cut { cause: error.text() },
            Err(_elapsed) => return Ended::Cut { cause: "agentd says nothing any more".to_owned() },
        }
    }
}

/// Asks on until the manager is back; its refusal or [`RETURN_LIMIT`] is the end.
async fn reopened(client: &Client, query: &str) -> Result<Stream, Error> {
    let until = Instant::now() + RETURN_LIMIT;
    loop {
        sleep(RETURN_PAUSE).await;
        match Stream::open(client, query).await {
            Err(Error::NotRunning { .. } | Error::Broken { .. }) if Instant::now() < until => {}
            outcome => return outcome,
        }
    }
}

/// Events out of an answer, one a line; empty lines are signs of life.
struct Stream {
    response: reqwest::Response,
    /// The newest event when the answer began.
    newest: EventId,
    buffer: Vec<u8>,
}

impl Stream {
    async fn open(client: &Client, query: &str) -> Result<Self, Error> {
        let response = client.open(&format!("/v1/events?{query}")).await?;
        let newest = response.headers().get(NEWEST_EVENT_HEADER);
        let newest = newest.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or_default();
        Ok(Self { response, newest: EventId(newest), buffer: Vec::new() })
    }

    async fn next(&mut self) -> Result<Option<Event>, Error> {
        let broken = |cause: String| Error::Broken { cause };
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.len() > 1 {
                    return serde_json::from_slice(&line).map(Some).map_err(|error| broken(chain(&error)));
                }
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(broken("an event without an end".to_owned()));
            }
            match self.response.chunk().await.map_err(|error| broken(chain(&error)))? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

struct Page {
    json: bool,
    screen: Screen,
}

impl Page {
    fn line(&self, event: &Event) -> String {
        if self.json {
            return serde_json::to_string(event).expect("an event is plain JSON");
        }
        let when = time::local(event.at_unix_ms, now_unix_ms(), &TimeZone::system());
        line(event, &when).shown(self.screen)
    }
}

fn line(event: &Event, when: &str) -> Line {
    let who = match (&event.service, event.release) {
        (Some(service), Some(release)) => format!("{service} r{release}"),
        (Some(service), None) => service.to_string(),
        (None, _) => "-".to_owned(),
    };
    let style = match event.severity {
        Severity::Info => Style::Plain,
        Severity::Warn => Style::Busy,
        Severity::Error => Style::Bad,
    };
    // A cause quotes what programs said.
    let what = harmless(&event.text);
    let line = Line::new(Style::Dim, format!("{when}  "))
        .with(Style::Strong, format!("{who:<14}  "))
        .with(style, format!("{:<18}  {what}", event.what.word()));
    let line = match &event.instance {
        Some(instance) => line.with(Style::Dim, format!(" [{instance}]")),
        None => line,
    };
    match event.suppressed {
        0 => line,
        count => line.with(Style::Dim, format!(" ({count} more before it were not kept)")),
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::api::What;
    use agentd_protocol::ids::ReleaseNumber;

    use super::*;

    #[test]
    fn a_line_says_when_who_and_what() {
        let what = What::CrashExited { exit: "exit code 1".into(), uptime_ms: 1_200, restart_in_ms: Some(0) };
        let event = Event {
            id: EventId(1),
            at_unix_ms: 0,
            severity: what.severity(),
            service: ServiceName::new("api").ok(),
            release: Some(ReleaseNumber(3)),
            instance: None,
            suppressed: 2,
            text: what.text(),
            what,
        };
        let plain = "12:00:00  api r3          crash.exited        crashed after 1.2 s: exit code 1; starts again at once \
                     (2 more before it were not kept)";
        assert_eq!(line(&event, "12:00:00").shown(Screen::Plain), plain);
        let silly = Event { text: "\x1b[2Jgone".into(), ..event };
        assert!(line(&silly, "12:00:00").shown(Screen::Plain).contains("  gone"));
    }
}
