//! `cargo xtask demo --control`: a control server and two hosts, each in a folder of its own, on this machine. Everything
//! goes by the command lines a person would type.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::agent::{self, Agent};
use super::folder::{self, Folder};
use super::news::{self, News};
use super::options::Options;
use super::screen::Screen;
use super::{LEFT_LIMIT, LOOK, interrupt, programs_dir, unix_ms};
use crate::command::Line;
use crate::console::say;
use crate::setup;

const HOSTS: usize = 2;
const STACK: &str = "board";
/// Ports of the hosts, and of the server, above the one that was chosen.
const PORTS_APART: u16 = 10;
const CONTROL_PORT_ABOVE: u16 = 20;
/// Instances of the two hosts share the usual range.
const INSTANCE_PORTS: [&str; HOSTS] = ["[20000, 24999]", "[25000, 29999]"];
/// How long it stays away when somebody ends it: `20 s` in what is told.
const AWAY: Duration = Duration::from_secs(20);
/// Until the control server answers, and until it has ended.
const CONTROL_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn homes(folder: &Folder) -> [PathBuf; HOSTS] {
    ["host-1", "host-2"].map(|name| folder.dir.join(name))
}

pub(super) fn up(root: &Path, options: &Options, started: Instant) -> Result<()> {
    let folder = Folder::at(options.dir.clone(), options.hosts)?;
    if let Some(home) = homes(&folder).iter().find(|home| agent::is_up(home)) {
        bail!("a demo runs in {} already; Ctrl-C where it was started", home.display());
    }
    setup::for_demo(root)?;
    say("demo: building agentd (cargo shows its own progress; the first time takes minutes)");
    Line::new("cargo build --workspace --locked").run(root)?;
    folder.prepare(root, options.port)?;
    for (number, home) in (0..).zip(homes(&folder)) {
        std::fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
        folder::write(&home.join("agentd.toml"), &settings(options.port, number))?;
    }
    let signals = interrupt::queue()?;
    let mut screen = Screen::new(Instant::now());
    let seconds = started.elapsed().as_secs_f32();
    screen.text(&format!("demo: built after {seconds:.1} s; starting in {}", folder.dir.display()));
    let programs_dir = programs_dir()?;
    let control = Control::start(&programs_dir, &folder, options.port + CONTROL_PORT_ABOVE)?;
    let mut fleet = Fleet { folder: &folder, programs_dir, options, control, agents: Vec::new(), screen, signals };
    let began = Instant::now();
    // Whatever happens: nothing is left running.
    let stayed = fleet.begin().and_then(|()| fleet.stay(began));
    fleet.down().and(stayed)
}

fn settings(port: u16, number: u16) -> String {
    let port = port + number * PORTS_APART;
    let instances = INSTANCE_PORTS[usize::from(number)];
    format!("[ports]\nproxy = {port}\ninternal = {}\ndns = {}\ninstances = {instances}\n", port + 1, port + 2)
}

#[derive(Debug)]
struct Control {
    home: PathBuf,
    programs_dir: PathBuf,
    said_file: PathBuf,
    port: u16,
    process: Child,
    /// Somebody wants to see the hosts without it.
    ended: Option<Instant>,
}

fn serve(programs_dir: &Path, home: &Path, said_file: &Path, port: u16) -> Result<Child> {
    let said = File::options().append(true).create(true).open(said_file);
    let said = said.with_context(|| format!("write {}", said_file.display()))?;
    let mut command = Command::new(programs_dir.join("controld"));
    command.args(["serve", "--home"]).arg(home).arg("--listen").arg(format!("127.0.0.1:{port}"));
    command.stdin(Stdio::null()).stdout(Stdio::from(said.try_clone()?)).stderr(Stdio::from(said)).process_group(0);
    command.spawn().context("start controld")
}

impl Control {
    fn start(programs_dir: &Path, folder: &Folder, port: u16) -> Result<Self> {
        let (home, said_file) = (folder.dir.join("control"), folder.dir.join("control.out"));
        let process = serve(programs_dir, &home, &said_file, port)?;
        let mut control = Self { home, programs_dir: programs_dir.to_owned(), said_file, port, process, ended: None };
        let began = Instant::now();
        while control.ask(&["stack", "list"]).is_err() {
            if control.process.try_wait()?.is_some() || began.elapsed() > CONTROL_LIMIT {
                bail!("the control server does not start; see {}", control.said_file.display());
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(control)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.programs_dir.join("controld"));
        command.args(words).arg("--home").arg(&self.home).stdin(Stdio::null());
        command
    }

    /// The answer as JSON.
    fn ask(&self, words: &[&str]) -> Result<Value> {
        let output = self.command(words).arg("--json").output().context("start controld")?;
        if !output.status.success() {
            bail!("controld {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("read what `controld {}` says", words.join(" ")))
    }

    /// Brings it back after a while; what is to be told.
    fn keep(&mut self) -> Result<Option<&'static str>> {
        if self.process.try_wait()?.is_none() {
            return Ok(None);
        }
        match self.ended {
            None => {
                self.ended = Some(Instant::now());
                Ok(Some("the control server has ended; both hosts run on, and it comes back in 20 s"))
            }
            Some(ended) if ended.elapsed() < AWAY => Ok(None),
            Some(_) => {
                self.process = serve(&self.programs_dir, &self.home, &self.said_file, self.port)?;
                self.ended = None;
                Ok(Some("the control server is back; what happened meanwhile arrives there"))
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.process.id())?);
        if self.process.try_wait()?.is_none() {
            kill(pid, Signal::SIGTERM).context("end the control server")?;
        }
        let began = Instant::now();
        while self.process.try_wait()?.is_none() {
            if began.elapsed() > CONTROL_LIMIT {
                bail!("the control server (pid {pid}) does not end");
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }
}

struct Fleet<'a> {
    folder: &'a Folder,
    programs_dir: PathBuf,
    options: &'a Options,
    control: Control,
    agents: Vec<Agent>,
    screen: Screen,
    signals: Receiver<Signal>,
}

impl Fleet<'_> {
    /// A stack, two hosts that join it, and a first version; of an earlier demo everything is there already.
    fn begin(&mut self) -> Result<()> {
        let stacks = self.control.ask(&["stack", "list"])?;
        let has_stack = stacks.as_array().is_some_and(|stacks| stacks.iter().any(|stack| stack["name"] == STACK));
        if !has_stack {
            self.control.ask(&["stack", "create", STACK])?;
        }
        for home in homes(self.folder) {
            if !home.join("state/identity").exists() {
                self.join(&home)?;
            }
            self.agents.push(Agent::of_fleet(&self.programs_dir, &home)?);
        }
        let file = self.folder.stack_file();
        let file = file.to_str().context("the folder's name is UTF-8")?;
        self.control.ask(&["stack", "draft", STACK, file])?;
        let published = self.control.ask(&["stack", "publish", STACK, "--reason", "the demo began"])?;
        self.screen.line(&format!("version {} is published", published["number"]));
        Ok(())
    }

    fn join(&mut self, home: &Path) -> Result<()> {
        let made = self.control.ask(&["token", "create", STACK])?;
        let token = home.join("join");
        let text = made["join"].as_str().context("a new token has a join string")?;
        folder::write_private(&token, text)?;
        let name = home.file_name().and_then(|name| name.to_str()).unwrap_or("host");
        let mut command = Command::new(self.programs_dir.join("agentd"));
        command.args(["join", "--name", name, "--token-file"]).arg(&token).arg("--home").arg(home);
        let output = command.stdin(Stdio::null()).output().context("start agentd join")?;
        std::fs::remove_file(&token).context("remove the used join string")?;
        if !output.status.success() {
            bail!("{name} does not join: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        self.screen.line(&format!("{name} has joined"));
        Ok(())
    }

    /// Tells what happens until it is asked to end.
    fn stay(&mut self, began: Instant) -> Result<()> {
        let mut news: Vec<News> = self.agents.iter().map(|_| News::default()).collect();
        let mut is_welcomed = false;
        loop {
            match self.signals.recv_timeout(LOOK) {
                Ok(signal) => {
                    self.screen.now("");
                    self.screen.line(&format!("{signal}: taking everything down; requests in flight are waited for"));
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("nobody waits for signals any more"),
            }
            for agent in &mut self.agents {
                if agent.ended()?.is_some() {
                    bail!("agentd does not run:\n{}", agent.last_words());
                }
            }
            if let Some(line) = self.control.keep()? {
                self.screen.line(line);
            }
            let is_settled = self.look(&mut news);
            if is_settled && !is_welcomed {
                is_welcomed = true;
                let seconds = began.elapsed().as_secs_f32();
                self.screen.now("");
                self.screen
                    .text(&format!("\ndemo: both hosts have what was published, {seconds:.1} s after the start\n"));
                let text = self.welcome()?;
                self.screen.text(&text);
            }
        }
    }

    /// Whether every host is where it will stay.
    fn look(&mut self, news: &mut [News]) -> bool {
        let (mut settled, mut under_way) = (0, Vec::new());
        for (number, (agent, news)) in (1..).zip(self.agents.iter().zip(news)) {
            let Some(status) = agent.status() else { continue };
            for line in news.of(&status) {
                self.screen.line(&format!("host-{number}  {line}"));
            }
            let at_work = news::under_way(&status, unix_ms());
            let is_still = news::is_applied(&status) || (news::is_degraded(&status) && at_work.is_empty());
            settled += usize::from(is_still);
            under_way.extend(at_work.into_iter().map(|line| format!("host-{number} {line}")));
        }
        self.screen.now(&under_way.join(", "));
        settled == HOSTS
    }

    fn welcome(&self) -> Result<String> {
        let link = self.control.command(&["user", "create-link"]).output().context("start controld")?;
        let link = String::from_utf8_lossy(&link.stdout);
        let link =
            link.split_whitespace().find(|word| word.starts_with("http")).unwrap_or("see below: sign in").to_owned();
        let port = self.options.port;
        let (second, control) = (port + PORTS_APART, port + CONTROL_PORT_ABOVE);
        let (site, notes) = (self.folder.repository("site"), self.folder.repository("notes"));
        let [one, _] = homes(self.folder);
        Ok(format!(
            "
Look     http://127.0.0.1:{control}/         the dashboard; the account is made by this link, once:
         {link}
         http://127.0.0.1:{port}/            host-1
         http://127.0.0.1:{second}/            host-2

In another terminal:
         export PATH=\"{programs}:$PATH\" CONTROLD_HOME={home} AGENTD_HOME={one}

Deploy   sed -i 's/One small host/Two happy hosts/' {site}/src/index.html
         git -C {site} -c user.name=me -c user.email=me@example.com commit -qam 'Happier hosts'
         controld stack publish {STACK} --reason 'happier hosts'      a commit alone changes nothing: publish it
Go back  controld stack versions {STACK}; controld stack rollback {STACK} 1 --reason 'as it was'
Break it sed -i '1i import nonsense' {notes}/app.py
         git -C {notes} -c user.name=me -c user.email=me@example.com commit -qam 'Break it'
         controld stack publish {STACK} --reason 'break it'           the old release serves on, the dashboard says why
Leave    kill -9 {pid}          the server is away for 20 s: both hosts serve on, and nothing is lost
See      agentctl status        the first host's own view; controld host list, events, audit
End      Ctrl-C here
",
            programs = self.programs_dir.display(),
            home = self.control.home.display(),
            one = one.display(),
            site = site.display(),
            notes = notes.display(),
            pid = self.control.process.id(),
        ))
    }

    fn down(&mut self) -> Result<()> {
        let mut orders: Vec<Child> = Vec::new();
        for agent in &mut self.agents {
            if agent.ended()?.is_none() {
                orders.push(agent.begin_down()?);
            }
        }
        for order in &mut orders {
            order.wait().context("wait for agentctl")?;
        }
        self.control.end()?;
        let began = Instant::now();
        loop {
            let left = agent::processes_of(&self.folder.dir)?;
            if left.is_empty() {
                break;
            }
            if began.elapsed() > LEFT_LIMIT {
                bail!("processes of the demo still run: {left:?}");
            }
            std::thread::park_timeout(LOOK);
        }
        self.screen.line("everything is down; nothing of the demo runs");
        let dir = self.folder.dir.display();
        self.screen.text(&format!(
            "demo: repositories, builds and databases stay in {dir}; `cargo xtask demo --control --clean` removes them"
        ));
        Ok(())
    }
}
