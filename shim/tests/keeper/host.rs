//! A run folder with one instance, its keeper, and what a manager would ask.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agentd_protocol::shim::spec::{RestartPolicy, Spec};
use agentd_protocol::shim::state::{Identity, Phase, State};
use agentd_protocol::shim::wire::{Envelope, Message};
use agentd_sys::files;
use agentd_sys::seqpacket::{Blocking, Connection, Received};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// This test's instance. Never the same in two tests: a shim finds its program's tree by the id in the environment, on
/// the whole host.
pub(crate) fn id() -> &'static str {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    thread_local! {
        static ID: &'static str = {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            format!("{:08}{count:04}", std::process::id()).leak()
        };
    }
    ID.with(|id| *id)
}

/// Far above what anything here takes on a busy machine.
const CAP: Duration = Duration::from_secs(20);

/// A run folder with one instance in it, and the keeper of it.
pub(crate) struct Host {
    pub(crate) root: tempfile::TempDir,
    pub(crate) kernel: Kernel,
    shim: Shim,
    pub(crate) keeper: Child,
}

/// What the keeper starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shim {
    StandIn,
    Real,
}

/// What the keeper is to believe about the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    Own,
    /// Below 6.9: no pidfd inode, no exit status by pidfd.
    Old,
}

/// One line of what the stand-in notes, as JSON text.
pub(crate) type Note = String;

impl Host {
    pub(crate) fn new() -> Self {
        Self::on(Kernel::Own)
    }

    pub(crate) fn on(kernel: Kernel) -> Self {
        Self::with(kernel, Shim::StandIn)
    }

    /// A real shim, and `sh -c script` to run in the root folder.
    pub(crate) fn running(kernel: Kernel, restart: RestartPolicy, script: &str) -> Self {
        let host = Self::with(kernel, Shim::Real);
        let root = host.root.path();
        std::fs::create_dir(root.join("logs")).unwrap();
        let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        let spec = Spec {
            instance: id().into(),
            service: "test".into(),
            argv: ["sh", "-c", script].map(|arg| arg.as_bytes().to_vec()).into(),
            env: vec![b"PATH=/usr/local/bin:/usr/bin:/bin".to_vec()],
            cwd: bytes(root),
            user: None,
            log_dir: bytes(&root.join("logs")),
            restart,
            stop_signal: 15,
            stop_timeout_ms: 10_000,
            run_limit_ms: 0,
            stable_after_ms: 10_000,
            log_segment_bytes: 8 << 20,
            log_segments_max: 5,
            oom_score_adj: 200,
            open_files_max: 0,
            no_new_privileges: true,
            hosts_file: None,
            tmp_dir: None,
        };
        std::fs::write(host.dir().join("spec"), spec.encode()).unwrap();
        host
    }

    pub(crate) fn state(&self) -> Option<State> {
        State::decode(&std::fs::read(self.dir().join("state")).ok()?).ok()
    }

    /// The running program, other than `before`.
    pub(crate) fn program(&self, before: Option<&Identity>) -> Identity {
        wait_for("running program", || match self.state()?.phase {
            Phase::Up { program, .. } if before != Some(&program) => Some(program),
            _ => None,
        })
    }

    /// The living shim, other than `before`, as its lock tells.
    pub(crate) fn shim(&self, before: u32) -> u32 {
        wait_for("living shim", || {
            let lock_path = self.dir().join("lock");
            files::is_locked(&lock_path).ok()?.then_some(())?;
            files::read_pid(&lock_path).filter(|pid| *pid != before && agentd_sys::process::stat(*pid).is_some())
        })
    }

    /// All that was logged, in order.
    pub(crate) fn log(&self) -> String {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(self.root.path().join("logs")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        paths.sort();
        paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
    }

    fn with(kernel: Kernel, shim: Shim) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("instances").join(id());
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["out.fifo", "err.fifo"] {
            nix::unistd::mkfifo(&dir.join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let keeper = start_keeper(root.path(), kernel, shim);
        Self { root, kernel, shim, keeper }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.root.path().join("instances").join(id())
    }

    pub(crate) fn connect(&self) -> Connection {
        wait_for("the keeper's socket", || {
            let connection = Connection::connect(&self.root.path().join("keeper"), "ctl.sock", Blocking::Yes).ok()?;
            connection.set_receive_timeout(CAP).unwrap();
            (connection.peer().unwrap().pid == self.keeper.id()).then_some(connection)
        })
    }

    pub(crate) fn spawn(&self, names: &[&str], fds: &[&OwnedFd]) -> Message {
        let connection = self.connect();
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let message = Message::Spawn { instance: id().to_owned(), names };
        connection.send(&Envelope { seq: 5, re: 0, message }, &fds).unwrap();
        answer(&connection).0
    }

    pub(crate) fn ask(&self, message: Message) -> Message {
        let connection = self.connect();
        connection.send(&Envelope { seq: 5, re: 0, message }, &[]).unwrap();
        answer(&connection).0
    }

    /// Names and inodes of what the keeper holds for the instance.
    pub(crate) fn held(&self) -> (Vec<String>, Vec<u64>) {
        let connection = self.connect();
        let message = Message::AskHeld { instance: Some(id().to_owned()) };
        connection.send(&Envelope { seq: 5, re: 0, message }, &[]).unwrap();
        let (Message::Held { names }, fds) = answer(&connection) else { panic!("no Held") };
        (names, fds.iter().map(inode).collect())
    }

    pub(crate) fn listed(&self) -> Vec<(String, u32)> {
        let connection = self.connect();
        connection.send(&Envelope { seq: 5, re: 0, message: Message::List }, &[]).unwrap();
        let mut all = Vec::new();
        loop {
            match answer(&connection).0 {
                Message::Instances { shims } => all.extend(shims),
                Message::Done => return all,
                other => panic!("{other:?}"),
            }
        }
    }

    /// The note of the `count`th start.
    pub(crate) fn start(&self, count: usize) -> Note {
        wait_for(&format!("start {count} of the stand-in"), || {
            let text = std::fs::read_to_string(self.dir().join("starts")).ok()?;
            text.lines().nth(count - 1).filter(|line| line.ends_with('}')).map(str::to_owned)
        })
    }

    pub(crate) fn stop_keeper(&mut self, signal: Signal) -> std::process::ExitStatus {
        send(self.keeper.id(), signal);
        let mut ended = None;
        wait_for("the keeper's end", || {
            ended = self.keeper.try_wait().unwrap();
            ended
        })
    }

    pub(crate) fn kill_and_replace_keeper(&mut self) {
        self.stop_keeper(Signal::SIGKILL);
        self.start_keeper();
    }

    pub(crate) fn start_keeper(&mut self) {
        self.keeper = start_keeper(self.root.path(), self.kernel, self.shim);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        send(self.keeper.id(), Signal::SIGKILL);
        // Reaped already by a test that ended it.
        let _ = self.keeper.wait();
        let lock_path = self.dir().join("lock");
        if files::is_locked(&lock_path).unwrap() {
            files::read_pid(&lock_path).into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
        }
        if let Some(program) = self.state().and_then(|state| state.phase.program().cloned()) {
            send(program.pid, Signal::SIGKILL);
        }
    }
}

pub(crate) fn start_keeper(run_dir: &Path, kernel: Kernel, shim: Shim) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentd-shim"));
    if kernel == Kernel::Old {
        command.env(agentd_protocol::shim::NO_PIDFD_INFO_ENV, "1");
    }
    command.arg("keeper").arg(run_dir).env("A_SECRET", "of the manager").stdin(Stdio::null());
    if shim == Shim::StandIn {
        command.arg("--shim").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keeper/stand_in.py"));
    }
    command.spawn().unwrap()
}

pub(crate) fn send(pid: u32, signal: Signal) {
    // ESRCH: it has ended by itself, and every caller checks what it wants to see.
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

pub(crate) fn answer(connection: &Connection) -> (Message, Vec<OwnedFd>) {
    match connection.receive().unwrap() {
        Received::Message { envelope, fds } => {
            assert_eq!(envelope.re, 5, "{envelope:?}");
            (envelope.message, fds)
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < CAP, "no {what} within {CAP:?}");
        std::thread::sleep(Duration::from_millis(5)); // poll: capped above
    }
}

/// `"key": value` of a note, as text.
pub(crate) fn field(note: &str, key: &str) -> String {
    let rest = note.split_once(&format!("\"{key}\": ")).unwrap().1;
    match rest.strip_prefix('[') {
        Some(list) => list.split_once(']').unwrap().0.to_owned(),
        None => rest.split([',', '}']).next().unwrap().to_owned(),
    }
}

pub(crate) fn pid_of(note: &str) -> u32 {
    field(note, "pid").parse().unwrap()
}

pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap()
}

pub(crate) fn inode(fd: &OwnedFd) -> u64 {
    std::fs::File::from(fd.try_clone().unwrap()).metadata().unwrap().ino()
}
