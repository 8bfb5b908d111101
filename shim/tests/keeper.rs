//! The keeper as a process, with a stand-in for the shims it starts: what must outlive which death.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentd_protocol::shim::event::{REAP_BYTES, ReapRecord};
use agentd_protocol::shim::state::{Phase, State};
use agentd_protocol::shim::wire::{Envelope, Message, Refusal};
use agentd_sys::files;
use agentd_sys::seqpacket::{Blocking, Connection, Received};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const ID: &str = "abcdef012345";
/// Far above what anything here takes on a busy machine.
const CAP: Duration = Duration::from_secs(20);

/// A run folder with one instance in it, and the keeper of it.
struct Host {
    root: tempfile::TempDir,
    keeper: Child,
}

/// One line of what the stand-in notes, as JSON text.
type Note = String;

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("instances").join(ID);
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["out.fifo", "err.fifo"] {
            nix::unistd::mkfifo(&dir.join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let keeper = start_keeper(root.path());
        Self { root, keeper }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("instances").join(ID)
    }

    fn connect(&self) -> Connection {
        wait_for("the keeper's socket", || {
            let connection = Connection::connect(&self.root.path().join("keeper"), "ctl.sock", Blocking::Yes).ok()?;
            connection.set_receive_timeout(CAP).unwrap();
            (connection.peer().unwrap().pid == self.keeper.id()).then_some(connection)
        })
    }

    fn spawn(&self, names: &[&str], fds: &[&OwnedFd]) -> Message {
        let connection = self.connect();
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let message = Message::Spawn { instance: ID.to_owned(), names };
        connection.send(&Envelope { seq: 5, re: 0, message }, &fds).unwrap();
        answer(&connection).0
    }

    fn ask(&self, message: Message) -> Message {
        let connection = self.connect();
        connection.send(&Envelope { seq: 5, re: 0, message }, &[]).unwrap();
        answer(&connection).0
    }

    fn listed(&self) -> Vec<(String, u32)> {
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
    fn start(&self, count: usize) -> Note {
        wait_for(&format!("start {count} of the stand-in"), || {
            let text = std::fs::read_to_string(self.dir().join("starts")).ok()?;
            text.lines().nth(count - 1).filter(|line| line.ends_with('}')).map(str::to_owned)
        })
    }

    fn stop_keeper(&mut self, signal: Signal) -> std::process::ExitStatus {
        send(self.keeper.id(), signal);
        let mut ended = None;
        wait_for("the keeper's end", || {
            ended = self.keeper.try_wait().unwrap();
            ended
        })
    }

    fn kill_and_replace_keeper(&mut self) {
        self.stop_keeper(Signal::SIGKILL);
        self.keeper = start_keeper(self.root.path());
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
    }
}

fn start_keeper(run_dir: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_agentd-shim"))
        .args(["keeper".as_ref(), run_dir, "--shim".as_ref()])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand_in.py"))
        .env("A_SECRET", "of the manager")
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn send(pid: u32, signal: Signal) {
    // ESRCH: it has ended by itself, and every caller checks what it wants to see.
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

fn answer(connection: &Connection) -> (Message, Vec<OwnedFd>) {
    match connection.receive().unwrap() {
        Received::Message { envelope, fds } => {
            assert_eq!(envelope.re, 5, "{envelope:?}");
            (envelope.message, fds)
        }
        other => panic!("{other:?}"),
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < CAP, "no {what} within {CAP:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `"key": value` of a note, as text.
fn field(note: &str, key: &str) -> String {
    let rest = note.split_once(&format!("\"{key}\": ")).unwrap().1;
    match rest.strip_prefix('[') {
        Some(list) => list.split_once(']').unwrap().0.to_owned(),
        None => rest.split([',', '}']).next().unwrap().to_owned(),
    }
}

fn pid_of(note: &str) -> u32 {
    field(note, "pid").parse().unwrap()
}

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap()
}

fn inode(fd: &OwnedFd) -> u64 {
    std::fs::File::from(fd.try_clone().unwrap()).metadata().unwrap().ino()
}

#[test]
fn a_killed_shim_comes_back_with_the_same_descriptors() {
    let host = Host::new();
    let (one, two) = pipe();
    assert_eq!(host.spawn(&["listen.web", "reserve.port"], &[&one, &two]), Message::Done);
    let first = host.start(1);
    let inodes = format!("{}, {}", inode(&one), inode(&two));
    assert_eq!(field(&first, "names"), r#""listen.web", "reserve.port""#);
    assert_eq!(field(&first, "inodes"), inodes);
    assert_eq!(field(&first, "stdin"), r#""/dev/null""#);
    let env = field(&first, "env");
    assert!(env.contains("AGENTD_HELD_FDS") && !env.contains("A_SECRET"), "{env}");
    assert_eq!(host.listed(), [(ID.to_owned(), pid_of(&first))]);

    send(pid_of(&first), Signal::SIGKILL);
    let second = host.start(2);
    assert_ne!(pid_of(&first), pid_of(&second));
    assert_eq!(field(&second, "inodes"), inodes);

    assert_eq!(host.spawn(&[], &[]), Message::Done, "it runs: nothing to do");
    assert_eq!(host.listed(), [(ID.to_owned(), pid_of(&second))]);
    let connection = host.connect();
    let message = Message::AskHeld { instance: Some(ID.to_owned()) };
    connection.send(&Envelope { seq: 5, re: 0, message }, &[]).unwrap();
    let (Message::Held { names }, fds) = answer(&connection) else { panic!("no Held") };
    assert_eq!(names, ["listen.web", "reserve.port"]);
    assert_eq!(fds.iter().map(inode).collect::<Vec<_>>(), [inode(&one), inode(&two)]);
}

#[test]
fn bytes_in_the_log_pipe_outlive_writer_and_readers() {
    let host = Host::new();
    host.spawn(&[], &[]);
    host.start(1);
    let fifo = host.dir().join("out.fifo");
    // A writer that opens without waiting finds ENXIO when nobody holds the other end.
    let mut writer = std::fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&fifo).unwrap();
    writer.write_all(b"last words\n").unwrap();
    drop(writer);
    let mut reader = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&fifo).unwrap();
    let mut bytes = [0; 64];
    let len = reader.read(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"last words\n");
}

#[test]
fn what_a_dead_shim_left_is_recorded_before_it_is_reaped() {
    let host = Host::new();
    std::fs::write(host.dir().join("program"), "while [ ! -e end ]; do sleep 0.02; done; exit 42").unwrap();
    host.spawn(&[], &[]);
    let first = host.start(1);
    let program: u32 = field(&first, "program").parse().unwrap();
    send(pid_of(&first), Signal::SIGKILL);
    host.start(2);
    let pidfd = agentd_sys::process::PidFd::open(program).unwrap();
    let identity = agentd_sys::process::identify(program, &pidfd).unwrap();
    std::fs::write(host.dir().join("end"), b"").unwrap();
    let record = wait_for("record of the program's exit", || {
        let bytes = std::fs::read(host.root.path().join("keeper/exits")).ok()?;
        let records = bytes.chunks_exact(REAP_BYTES).map(|chunk| ReapRecord::decode(chunk.try_into().unwrap()));
        records.into_iter().find(|record| record.pid == program)
    });
    assert_eq!(record.wait_status, 42 << 8);
    assert_eq!((record.pidfd_inode, record.start_ticks), (identity.pidfd_inode, identity.start_ticks));
    wait_for("reap", || agentd_sys::process::stat(program).is_none().then_some(()));
}

#[test]
fn a_new_keeper_finds_living_shims_and_what_they_hold() {
    let mut host = Host::new();
    let (one, _two) = pipe();
    host.spawn(&["listen.web"], &[&one]);
    let first = host.start(1);
    host.kill_and_replace_keeper();
    assert_eq!(host.listed(), [(ID.to_owned(), pid_of(&first))]);
    wait_for("held descriptors", || {
        let connection = host.connect();
        let message = Message::AskHeld { instance: Some(ID.to_owned()) };
        connection.send(&Envelope { seq: 5, re: 0, message }, &[]).unwrap();
        let (Message::Held { names }, fds) = answer(&connection) else { panic!("no Held") };
        (names == ["listen.web"] && inode(&fds[0]) == inode(&one)).then_some(())
    });

    // It is not our child now, but its death is seen all the same.
    let mut state = State::fresh();
    state.phase = Phase::Backoff { retry_at_boot_ms: 1 };
    std::fs::write(host.dir().join("state"), state.encode()).unwrap();
    std::fs::write(host.dir().join("spec"), b"").unwrap();
    send(pid_of(&first), Signal::SIGKILL);
    let second = host.start(2);
    assert_eq!(field(&second, "inodes"), inode(&one).to_string());
}

#[test]
fn a_new_keeper_starts_shims_for_programs_without_one() {
    let mut host = Host::new();
    host.spawn(&[], &[]);
    let first = host.start(1);
    let mut state = State::fresh();
    state.phase = Phase::Backoff { retry_at_boot_ms: 1 };
    std::fs::write(host.dir().join("state"), state.encode()).unwrap();
    std::fs::write(host.dir().join("spec"), b"").unwrap();
    host.stop_keeper(Signal::SIGKILL);
    send(pid_of(&first), Signal::SIGKILL);
    wait_for("free lock", || (!files::is_locked(&host.dir().join("lock")).unwrap()).then_some(()));
    host.keeper = start_keeper(host.root.path());
    assert_eq!(host.listed(), [], "the manager has a moment to bring the descriptors");
    let second = host.start(2);
    assert_eq!(host.listed(), [(ID.to_owned(), pid_of(&second))]);
}

#[test]
fn the_keeper_ends_only_when_nothing_is_left() {
    let mut host = Host::new();
    host.spawn(&[], &[]);
    let first = host.start(1);
    for message in [Message::Shutdown, Message::Forget { instance: ID.to_owned() }] {
        assert!(matches!(host.ask(message), Message::Refused { reason: Refusal::Busy, .. }));
    }
    // Exit status 0: it was told to leave.
    send(pid_of(&first), Signal::SIGTERM);
    wait_for("empty list", || host.listed().is_empty().then_some(()));
    assert_eq!(host.ask(Message::Shutdown), Message::Done);
    assert!(wait_for("the keeper's end", || host.keeper.try_wait().unwrap()).success());
    let text = std::fs::read_to_string(host.dir().join("starts")).unwrap();
    assert_eq!(text.lines().count(), 1, "a shim that left is not started again");
}

#[test]
fn sigterm_ends_the_host_and_sigint_nothing() {
    let mut host = Host::new();
    host.spawn(&[], &[]);
    let first = host.start(1);
    send(host.keeper.id(), Signal::SIGINT);
    assert_eq!(host.listed().len(), 1);
    assert!(host.stop_keeper(Signal::SIGTERM).success());
    assert!(agentd_sys::process::stat(pid_of(&first)).is_none(), "the shim ended before the keeper");
}

#[test]
fn a_second_keeper_leaves_with_its_own_code() {
    let host = Host::new();
    host.connect();
    assert_eq!(start_keeper(host.root.path()).wait().unwrap().code(), Some(7));
    assert_eq!(host.listed(), []);
}

#[test]
fn wrong_requests_are_refused_and_change_nothing() {
    let host = Host::new();
    let refusal = |message: Message| match host.ask(message) {
        Message::Refused { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    let spawn = |instance: &str, names: Vec<String>| Message::Spawn { instance: instance.to_owned(), names };
    assert_eq!(refusal(spawn("../../escape", vec![])), Refusal::Unknown);
    assert_eq!(refusal(spawn("000000000000", vec![])), Refusal::Unknown);
    assert_eq!(refusal(spawn(ID, vec!["listen.web".into()])), Refusal::Failed);
    assert_eq!(refusal(Message::AskHeld { instance: None }), Refusal::Unknown);
    assert_eq!(refusal(Message::Start), Refusal::Unsupported);
    assert_eq!(host.ask(Message::Forget { instance: "000000000000".into() }), Message::Done);
    assert_eq!(host.listed(), []);
    for turn in 0..21 {
        let Message::GrantStart { wait_ms } = host.ask(Message::AskStart { instance: ID.into() }) else {
            panic!("no grant")
        };
        assert!(turn == 20 || wait_ms == 0, "turn {turn}: {wait_ms}");
    }
}
