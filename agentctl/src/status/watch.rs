//! `--watch`: one page drawn anew in place, or, where there is no screen, a new one whenever something changed.

use std::ops::ControlFlow;
use std::time::Duration;

use agentd_protocol::api::Status;
use agentd_protocol::exit_code::Exit;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::{Args, find, lines};
use crate::client::{Client, Error};
use crate::out::Out;
use crate::screen::{Line, Screen, Style};

const INTERVAL: Duration = Duration::from_secs(1);

/// Alternate screen and no cursor; and back (xterm control sequences, private modes 1049 and 25).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the first row; what is left of a line, of the screen.
const TOP: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_REST: &str = "\x1b[J";

/// Until Ctrl-C, SIGTERM, SIGHUP or a closed pipe. An agent that goes away while it is watched is waited for.
pub(super) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    // Nobody there from the start is an answer, not something to watch.
    let mut latest: Status = client.get("/v1/status").await?;
    let mut ends = Ends::new().map_err(|error| Error::Broken { cause: format!("no signal handler: {error}") })?;
    let on_screen = !args.json && Screen::of_stdout() != Screen::Plain;
    if on_screen {
        out.raw(ENTER);
    }
    let mut before = None;
    let mut trouble = None;
    while out.sync() == ControlFlow::Continue(()) {
        if on_screen {
            draw(&latest, args, trouble.take(), out);
        } else {
            append(&latest, args, &mut before, out);
        }
        let next = async {
            sleep(INTERVAL).await;
            client.get("/v1/status").await
        };
        tokio::select! {
            () = ends.next() => break,
            answer = next => match answer {
                Ok(status) => latest = status,
                Err(error) => trouble = Some(error.text()),
            }
        }
    }
    if on_screen {
        out.raw(LEAVE);
    }
    Ok(Exit::Ok)
}

fn draw(status: &Status, args: &Args, trouble: Option<String>, out: &mut Out) {
    let screen = Screen::of_stdout();
    let Screen::Terminal { rows, .. } = screen else { return };
    let mut page = lines(status, args, screen);
    if let Some(trouble) = trouble {
        page.insert(0, Line::new(Style::Bad, format!("what follows is old: {trouble}")));
    }
    if page.len() > rows {
        let hidden = page.len() - rows + 1;
        page.truncate(rows.saturating_sub(1));
        page.push(Line::new(Style::Dim, format!("… {hidden} more lines; make the window taller")));
    }
    let shown: Vec<String> = page.iter().map(|line| line.cut(screen) + CLEAR_LINE).collect();
    out.raw(format_args!("{TOP}{}{CLEAR_REST}", shown.join("\r\n")));
}

fn append(status: &Status, args: &Args, before: &mut Option<Status>, out: &mut Out) {
    let lasting = Some(lasting(status));
    if *before == lasting {
        return;
    }
    if args.json {
        let text = match args.service.as_deref().map(|name| find(status, name)) {
            None => serde_json::to_string(status),
            Some(service) => serde_json::to_string(&service),
        };
        out.line(text.expect("a status is plain JSON"));
    } else {
        if before.is_some() {
            out.line("");
        }
        lines(status, args, Screen::Plain).iter().for_each(|line| out.line(line.shown(Screen::Plain)));
    }
    out.flush();
    *before = lasting;
}

/// Without what changes although nothing happens.
fn lasting(status: &Status) -> Status {
    let mut lasting = Status { at_unix_ms: 0, host: None, security: None, ..status.clone() };
    for service in &mut lasting.services {
        (service.cpu_millicores, service.memory_bytes) = (None, None);
        for instance in &mut service.instances {
            (instance.cpu_millicores, instance.memory_bytes) = (None, None);
        }
    }
    lasting
}

/// What ends a watch.
struct Ends([Signal; 3]);

impl Ends {
    fn new() -> std::io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
