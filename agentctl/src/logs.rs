//! `agentctl logs SERVICE`: what its instances wrote, in order of time. Following goes on over restarts, deploys and a
//! restart of the manager.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use agentd_protocol::api::{LogLine, LogQuery, LogRecord, LogStream};
use agentd_protocol::exit_code::Exit;
use agentd_protocol::ids::ServiceName;

use crate::client::{Client, Error};
use crate::out::Out;
use crate::time::{self, When, now_unix_ms};

/// Lines shown when nobody says how many, or since when.
const LINES: u32 = 100;
/// A manager that went away while we followed has so long to come back.
const RETURN_LIMIT: Duration = Duration::from_secs(30);
const RETURN_POLL: Duration = Duration::from_millis(200);
/// While nothing comes, looks whether anybody still reads what we write.
const READER_POLL: Duration = Duration::from_secs(1);
/// Lines are asked for again from so long before the last one seen: two streams are not in step to the millisecond.
const OVERLAP_MS: u64 = 5_000;
/// Letters of an instance's id that are shown.
const SHORT_ID: usize = 6;
/// ANSI colours of instances, in turn: cyan, green, yellow, magenta, blue.
const COLOURS: [u8; 5] = [36, 32, 33, 35, 34];

const EXAMPLES: &str = "Examples:
  agentctl logs api                     the last 100 lines of all its instances
  agentctl logs api -f                  and what comes from now on
  agentctl logs api --since 10m | grep -i error
  agentctl logs api --build             the output of its newest build
  agentctl logs edge --since 2026-11-21T08:00:00Z

Lines of several instances begin with the instance they come from. Known secrets read as [masked NAME].";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// As `agentctl status` lists it; or `edge`, `tunnel`, or `agentd`
    service: String,
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// The last N lines [default: 100, all with --since]
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u32>,
    /// Since so long ago (30s, 10m, 2h, 1d) or since a moment (2026-11-21T08:00:00Z)
    #[arg(long, value_name = "WHEN")]
    since: Option<When>,
    /// The output of the newest build, or of that release's, in place of the instances'
    #[arg(long, value_name = "RELEASE", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "the flag, and the value it may have")]
    build: Option<Option<u64>>,
    /// Only instances of this release
    #[arg(long, value_name = "N", conflicts_with = "build")]
    release: Option<u64>,
    /// Only this instance; the first letters of its id are enough
    #[arg(long, value_name = "ID", conflicts_with = "build", value_parser = first_letters)]
    instance: Option<String>,
    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// One JSON object a line, with time, instance and stream
    #[arg(long)]
    json: bool,
}

fn first_letters(text: &str) -> Result<String, String> {
    let fits = (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if fits { Ok(text.to_owned()) } else { Err("an instance's id is 12 of a-z and 0-9".to_owned()) }
}

/// How an answer ended.
enum Ended {
    /// All was told.
    Whole,
    /// Nobody reads on.
    Unread,
    /// Ctrl-C.
    Interrupted,
    /// The manager went away, or the answer broke off.
    Cut,
}

pub(crate) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let name = match args.service.parse::<ServiceName>() {
        Ok(name) => name,
        Err(bad) => {
            out.complain(format_args!("agentctl: {bad}; `agentctl status` lists the services"));
            return Ok(Exit::NotFound);
        }
    };
    let mut query = query(args, now_unix_ms());
    let mut shown = Shown::new(args);
    loop {
        match tell(client, &name, &query, &mut shown, out).await? {
            Ended::Whole | Ended::Unread | Ended::Interrupted => return Ok(Exit::Ok),
            Ended::Cut if !args.follow => {
                return Err(Error::Broken { cause: "the answer is not complete".to_owned() });
            }
            Ended::Cut => {}
        }
        out.complain("agentctl: agentd has gone away; waiting for it to come back");
        match returned(client).await {
            Ended::Whole => {}
            Ended::Unread | Ended::Interrupted => return Ok(Exit::Ok),
            Ended::Cut => {
                let cause = format!("no agentd came back within {} s", RETURN_LIMIT.as_secs());
                return Err(Error::Broken { cause });
            }
        }
        query.lines = None;
        query.since_unix_ms = Some(shown.last_unix_ms.unwrap_or_else(now_unix_ms).saturating_sub(OVERLAP_MS));
        shown.again();
    }
}

fn query(args: &Args, now_ms: u64) -> LogQuery {
    let since_unix_ms = args.since.map(|when| when.unix_ms(now_ms));
    let lines = args.lines.or((since_unix_ms.is_none() && args.build.is_none()).then_some(LINES));
    LogQuery {
        lines,
        since_unix_ms,
        follow: args.follow,
        build: args.build.is_some(),
        release: args.build.flatten().or(args.release),
        instance: args.instance.clone(),
    }
}

/// Shows one answer to its end.
async fn tell(
    client: &Client,
    name: &ServiceName,
    query: &LogQuery,
    shown: &mut Shown,
    out: &mut Out,
) -> Result<Ended, Error> {
    let mut answer = client.lines(&format!("/v1/services/{name}/logs?{}", encoded(query))).await?;
    loop {
        let record = tokio::select! {
            record = answer.next() => record,
            () = tokio::time::sleep(READER_POLL) => {
                if out.reader_is_gone() {
                    return Ok(Ended::Unread);
                }
                continue;
            }
            // Only ever the end of the wait: it cannot fail where signals work.
            _ = tokio::signal::ctrl_c() => return Ok(Ended::Interrupted),
        };
        let Some(record) = record else { return Ok(Ended::Cut) };
        match serde_json::from_slice::<LogRecord>(&record) {
            Ok(LogRecord::End) => return Ok(Ended::Whole),
            Ok(record) => shown.show(record, out),
            Err(_) => return Ok(Ended::Cut),
        }
        if !answer.has_more() && out.sync() == ControlFlow::Break(()) {
            return Ok(Ended::Unread);
        }
    }
}

/// Waits for the manager to come back: `Cut` when it does not.
async fn returned(client: &Client) -> Ended {
    let start = Instant::now();
    while start.elapsed() < RETURN_LIMIT {
        if client.is_up().await {
            return Ended::Whole;
        }
        tokio::select! {
            () = tokio::time::sleep(RETURN_POLL) => {}
            // As above.
            _ = tokio::signal::ctrl_c() => return Ended::Interrupted,
        }
    }
    Ended::Cut
}

/// Every value is a number, a word or letters and digits: nothing to escape.
fn encoded(query: &LogQuery) -> String {
    let mut parts = vec![format!("follow={}", query.follow), format!("build={}", query.build)];
    let mut number = |name: &str, value: Option<u64>| parts.extend(value.map(|value| format!("{name}={value}")));
    number("lines", query.lines.map(u64::from));
    number("since_unix_ms", query.since_unix_ms);
    number("release", query.release);
    parts.extend(query.instance.as_ref().map(|id| format!("instance={id}")));
    parts.join("&")
}

/// What has been shown, and how.
struct Shown {
    json: bool,
    timestamps: bool,
    coloured: bool,
    /// Instances in the order in which they were met.
    instances: Vec<String>,
    /// Where the last line of each stream stood.
    places: BTreeMap<(String, LogStream), (u32, u64)>,
    /// Streams whose next lines may have been shown already.
    again: BTreeSet<(String, LogStream)>,
    last_unix_ms: Option<u64>,
}

impl Shown {
    fn new(args: &Args) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            json: args.json,
            timestamps: args.timestamps,
            coloured: std::io::stdout().is_terminal() && !no_colour && !dumb,
            instances: Vec::new(),
            places: BTreeMap::new(),
            again: BTreeSet::new(),
            last_unix_ms: None,
        }
    }

    /// The next answer repeats some lines.
    fn again(&mut self) {
        self.again = self.places.keys().cloned().collect();
    }

    fn show(&mut self, record: LogRecord, out: &mut Out) {
        match record {
            LogRecord::Source(source) => {
                if !self.instances.contains(&source.instance) {
                    self.instances.push(source.instance);
                }
            }
            LogRecord::Line(line) => {
                if self.is_new(&line) {
                    let text = if self.json { json(&line) } else { self.text(&line) };
                    out.line(text);
                }
            }
            LogRecord::End => {}
        }
    }

    fn is_new(&mut self, line: &LogLine) -> bool {
        let stream = (line.instance.clone(), line.stream);
        let place = (line.segment, line.offset);
        if self.again.contains(&stream) {
            if self.places.get(&stream).is_some_and(|last| place <= *last) {
                return false;
            }
            self.again.remove(&stream);
        }
        self.places.insert(stream, place);
        self.last_unix_ms = self.last_unix_ms.max(Some(line.at_unix_ms));
        true
    }

    fn text(&self, line: &LogLine) -> String {
        let mut text = String::new();
        if self.timestamps {
            text += &time::utc(line.at_unix_ms);
            text.push(' ');
        }
        if self.instances.len() > 1 {
            let short = line.instance.get(..SHORT_ID).unwrap_or(&line.instance);
            let number = self.instances.iter().position(|instance| *instance == line.instance).unwrap_or_default();
            let colour = COLOURS[number % COLOURS.len()];
            text += &if self.coloured { format!("\x1b[{colour}m{short} |\x1b[0m ") } else { format!("{short} | ") };
        }
        text + &line.text
    }
}

fn json(line: &LogLine) -> String {
    serde_json::to_string(line).expect("a line is plain JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Args {
        let words = ["logs", "api"].iter().chain(line);
        <Cli as clap::Parser>::try_parse_from(words).unwrap().args
    }

    #[test]
    fn the_command_line_becomes_a_question() {
        let of = |line: &[&str]| encoded(&query(&args(line), 1_000_000));
        assert_eq!(of(&[]), "follow=false&build=false&lines=100");
        assert_eq!(of(&["-f", "-n", "5"]), "follow=true&build=false&lines=5");
        assert_eq!(of(&["--since", "10m"]), "follow=false&build=false&since_unix_ms=400000");
        assert_eq!(
            of(&["--since", "1970-01-01T00:00:02Z", "-n3"]),
            "follow=false&build=false&lines=3&since_unix_ms=2000"
        );
        assert_eq!(of(&["--build"]), "follow=false&build=true");
        assert_eq!(of(&["--build", "7"]), "follow=false&build=true&release=7");
        assert_eq!(
            of(&["--release", "7", "--instance", "abc"]),
            "follow=false&build=false&lines=100&release=7&instance=abc"
        );
        for bad in [&["--since", "10"][..], &["--since", "m"], &["--since", ""], &["--instance", "a&b"], &["-n", "-1"]]
        {
            let words = ["logs", "api"].iter().chain(bad);
            assert!(<Cli as clap::Parser>::try_parse_from(words).is_err(), "{bad:?}");
        }
    }

    fn line(instance: &str, offset: u64) -> LogLine {
        let (instance, text) = (instance.to_owned(), format!("at {offset}"));
        LogLine { at_unix_ms: 1_000, instance, stream: LogStream::Stdout, segment: 0, offset, text }
    }

    #[test]
    fn several_instances_are_told_apart_and_nothing_is_shown_twice() {
        let mut shown = Shown { coloured: false, ..Shown::new(&args(&["-t"])) };
        shown.instances = vec!["abcdefghijkl".to_owned()];
        assert_eq!(shown.text(&line("abcdefghijkl", 1)), "1970-01-01T00:00:01.000Z at 1");
        shown.instances.push("mnopqrstuvwx".to_owned());
        assert_eq!(shown.text(&line("mnopqrstuvwx", 1)), "1970-01-01T00:00:01.000Z mnopqr | at 1");
        shown.coloured = true;
        assert!(shown.text(&line("mnopqrstuvwx", 1)).contains("\x1b[32mmnopqr |\x1b[0m at 1"));
        assert!(shown.is_new(&line("a", 1)) && shown.is_new(&line("a", 7)));
        shown.again();
        let new: Vec<bool> = [1, 7, 9, 7].iter().map(|offset| shown.is_new(&line("a", *offset))).collect();
        assert_eq!(new, [false, false, true, true], "only what repeats after a break is passed over");
        assert!(shown.is_new(&line("b", 1)));
    }
}
