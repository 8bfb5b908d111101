//! `cargo xtask demo`: the three applications of examples/ on this machine, through the real programs, until Ctrl-C.
//! What it leaves behind is a folder of builds for a quick next start; nothing runs on.

mod agent;
mod fleet;
mod folder;
mod interrupt;
mod news;
mod options;
mod repositories;
mod screen;

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::command::Line;
use crate::console::say;
use crate::setup;
use agent::Agent;
use folder::{Folder, Start};
use news::News;
use options::{Act, Hosts, Options, Reach};
use screen::Screen;

/// How often the status is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Longest wait for the manager's first answer, before asking for the end of everything is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// From the manager's end to that of the last process it had.
const LEFT_LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn run(root: &Path, words: &[String]) -> Result<()> {
    let started = Instant::now();
    let options = options::parse(words)?;
    match options.act {
        Act::Help => {
            say(options::USAGE);
            Ok(())
        }
        Act::Clean => clean(&Folder::at(options.dir, options.hosts)?, options.hosts),
        Act::Run => match options.hosts {
            Hosts::One => up(root, &options, started),
            Hosts::Two => fleet::up(root, &options, started),
        },
    }
}

fn clean(folder: &Folder, hosts: Hosts) -> Result<()> {
    let homes = match hosts {
        Hosts::One => vec![folder.home()],
        Hosts::Two => fleet::homes(folder).to_vec(),
    };
    for home in homes.iter().filter(|home| agent::is_up(home)) {
        let status = agent::ctl(&programs_dir()?, home).arg("down").status().context("start agentctl")?;
        if !status.success() {
            bail!("the demo in {} does not go down; the folder stays", folder.dir.display());
        }
    }
    match agent::processes_of(&folder.dir)?.as_slice() {
        [] => folder.remove(),
        pids => bail!("processes of {} still run ({pids:?}); the folder stays", folder.dir.display()),
    }
}

fn up(root: &Path, options: &Options, started: Instant) -> Result<()> {
    let folder = Folder::at(options.dir.clone(), options.hosts)?;
    let home = folder.home();
    if agent::is_up(&home) {
        bail!(
            "a demo runs in {} already; Ctrl-C where it was started, or `cargo xtask demo --clean`",
            folder.dir.display()
        );
    }
    setup::for_demo(root)?;
    say("demo: building agentd (cargo shows its own progress; the first time takes minutes)");
    Line::new("cargo build --workspace --locked").run(root)?;
    let start = folder.prepare(root, options.port)?;
    let signals = interrupt::queue()?;
    let mut screen = Screen::new(Instant::now());
    screen.text(&format!(
        "demo: built after {:.1} s; starting in {} ({})",
        started.elapsed().as_secs_f32(),
        folder.dir.display(),
        match start {
            Start::Cold => "for the first time: packages are fetched, which takes its time",
            Start::Warm => "with the builds of last time",
        }
    ));
    let programs_dir = programs_dir()?;
    let agent = Agent::start(&programs_dir, &folder, options.reach)?;
    let mut demo = Demo {
        agent,
        screen,
        news: News::default(),
        signals,
        folder: &folder,
        programs_dir,
        options,
        welcome: Welcome::Due,
    };
    demo.stay()
}

/// Where our own program lies, the others of the workspace lie too.
fn programs_dir() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find our own program")?;
    Ok(own.parent().context("our program lies in a folder")?.to_owned())
}

#[derive(Debug)]
struct Demo<'a> {
    agent: Agent,
    screen: Screen,
    news: News,
    signals: Receiver<Signal>,
    folder: &'a Folder,
    programs_dir: PathBuf,
    options: &'a Options,
    welcome: Welcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Welcome {
    Due,
    Said,
}

impl Demo<'_> {
    /// Tells what happens until it is asked to end, or agentd ends by itself.
    fn stay(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.signals.recv_timeout(LOOK) {
                Ok(signal) => {
                    self.screen.now("");
                    self.screen.line(&format!("{signal}: taking everything down; requests in flight are waited for"));
                    return self.down();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("nobody waits for signals any more"),
            }
            if let Some(status) = self.agent.ended()? {
                return self.ended_early(status.success());
            }
            self.look(began)?;
        }
    }

    fn look(&mut self, began: Instant) -> Result<()> {
        let Some(status) = self.agent.status() else { return Ok(()) };
        for line in self.news.of(&status) {
            self.screen.line(&line);
        }
        let under_way = news::under_way(&status, unix_ms());
        self.screen.now(&under_way.join(", "));
        let outcome = match (news::is_applied(&status), news::is_degraded(&status) && under_way.is_empty()) {
            (true, _) => "everything serves",
            (false, true) => "something is wrong, see above; the rest serves",
            (false, false) => return Ok(()),
        };
        if self.welcome == Welcome::Due {
            self.welcome = Welcome::Said;
            self.screen.now("");
            let seconds = began.elapsed().as_secs_f32();
            self.screen.text(&format!("\ndemo: {outcome}, {seconds:.1} s after agentd was started\n"));
            self.agent.print_status()?;
            let text = welcome(self.folder, &self.programs_dir, self.options);
            self.screen.text(&text);
        }
        Ok(())
    }

    fn ended_early(&mut self, went_well: bool) -> Result<()> {
        self.screen.now("");
        let words = self.agent.last_words();
        if went_well {
            self.screen.line("agentd was taken down by somebody else");
            return self.nothing_left();
        }
        if words.contains("is taken by") {
            bail!("agentd does not start:\n{words}\nchoose another port with `cargo xtask demo --port N`");
        }
        bail!("agentd does not run:\n{words}");
    }

    fn down(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            if self.agent.ended()?.is_some() {
                return self.nothing_left();
            }
            let mut order = self.agent.begin_down()?;
            while order.try_wait().context("ask for the end of agentctl")?.is_none() {
                if self.signals.recv_timeout(LOOK).is_ok() {
                    self.waited_for();
                }
            }
            match said(&mut order) {
                None => {
                    while self.agent.ended()?.is_none() {
                        std::thread::park_timeout(LOOK);
                    }
                    return self.nothing_left();
                }
                // It may not have come so far as to listen.
                Some(_) if began.elapsed() < ANSWER_LIMIT => std::thread::park_timeout(LOOK),
                Some(refusal) => {
                    self.agent.kill()?;
                    let pids = agent::processes_of(&self.folder.home())?;
                    bail!(
                        "agentd could not be asked to take everything down ({refusal}); it was ended, these run on: {pids:?}"
                    );
                }
            }
        }
    }

    fn waited_for(&mut self) {
        let up = self.agent.status().map(|status| news::still_up(&status)).unwrap_or_default();
        let waits = if up.is_empty() { "agentd itself".to_owned() } else { up.join("; ") };
        self.screen.line(&format!("already on it; still waiting for {waits}"));
    }

    /// What was promised is looked at.
    fn nothing_left(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            let left = agent::processes_of(&self.folder.home())?;
            if left.is_empty() {
                break;
            }
            if began.elapsed() > LEFT_LIMIT {
                bail!("processes of the demo still run: {left:?}");
            }
            std::thread::park_timeout(LOOK);
        }
        let dir = self.folder.dir.display();
        self.screen.line("everything is down; nothing of the demo runs");
        self.screen.text(&format!(
            "demo: repositories, builds and notes stay in {dir}; `cargo xtask demo --clean` removes them"
        ));
        Ok(())
    }
}

/// What it complained about; `None` when it did its work.
fn said(order: &mut Child) -> Option<String> {
    if order.wait().is_ok_and(|status| status.success()) {
        return None;
    }
    let mut text = String::new();
    if let Some(stderr) = &mut order.stderr {
        // An empty complaint is one too.
        let _ = std::io::Read::read_to_string(stderr, &mut text);
    }
    Some(text.trim().to_owned())
}

fn welcome(folder: &Folder, programs_dir: &Path, options: &Options) -> String {
    let (port, internal) = (options.port, options.port + 1);
    let site = folder.repository("site");
    let (site, programs, home) = (site.display(), programs_dir.display(), folder.home());
    let reach = match options.reach {
        Reach::Loopback => "only this machine reaches it (`--public` opens it to others)",
        Reach::Public => "EVERYONE who reaches this machine reaches it, without login or encryption",
    };
    format!(
        "
Look     http://127.0.0.1:{port}/            the page; {reach}
         http://127.0.0.1:{port}/api/notes   Python   http://127.0.0.1:{port}/live/about   Node

In another terminal:
         export PATH=\"{programs}:$PATH\" AGENTD_HOME={home}

Deploy   sed -i 's/One small host/One happy host/' {site}/src/index.html
         git -C {site} -c user.name=me -c user.email=me@example.com commit -qam 'A happier host'
         seconds later it serves; a page that is open offers the new release, no request is lost
Go back  agentctl rollback site               and forward again: agentctl unpin site
Break it sed -i '1i import nonsense' {notes}/app.py
         git -C {notes} -c user.name=me -c user.email=me@example.com commit -qam 'Break it'
         the old release serves on; `agentctl status` tells what is wrong, with the last log lines
By name  curl --resolve notes.svc.internal:{internal}:127.0.0.1 http://notes.svc.internal:{internal}/notes
         what the Node application does too, without --resolve and without knowing a port
See      agentctl status, events --follow, releases site, doctor, explain service.health
End      Ctrl-C here
",
        home = home.display(),
        notes = folder.repository("notes").display(),
    )
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
