//! One instance directory, its shim, and what its manager and keeper would do.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentd_protocol::shim::event::{EVENT_BYTES, Event, EventKind, ReapRecord};
use agentd_protocol::shim::log::{IndexRecord, Source, index_name, segment_name};
use agentd_protocol::shim::spec::{RestartPolicy, Spec};
use agentd_protocol::shim::state::{Exit, Identity, Phase, State};
use agentd_protocol::shim::wire::{Envelope, Message};
use agentd_protocol::shim::{HELD_FDS_ENV, NO_PIDFD_INFO_ENV};
use agentd_sys::seqpacket::{Blocking, Connection, Received};

/// Far past anything these tests wait for, on a busy machine too.
pub(crate) const CAP: Duration = Duration::from_secs(30);

pub(crate) struct Instance {
    root: tempfile::TempDir,
    pub(crate) spec: Spec,
    pub(crate) kernel: Kernel,
    held: Vec<(String, OwnedFd)>,
    shim: Option<Child>,
    /// The keeper's own copies of the pipes.
    _fifos: Vec<File>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    Real,
    /// Plays one below 6.9.
    Old,
}

pub(crate) struct Session {
    connection: Connection,
    seq: u32,
    pub(crate) state: State,
    pub(crate) events: Vec<Event>,
    seen: usize,
}

/// Asks again until there is an answer; panics with `what` and the last thing seen.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(begun.elapsed() < CAP, "waited for {what}; last seen: {seen}"),
        }
        std::thread::sleep(Duration::from_millis(2)); // poll: capped above
    }
}

pub(crate) fn is_alive(pid: u32) -> bool {
    agentd_sys::process::stat(pid).is_some_and(|stat| stat.state != 'Z')
}

impl Instance {
    pub(crate) fn new(argv: &[&str]) -> Self {
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let root = tempfile::tempdir().unwrap();
        let id = format!("t{:011x}", fastrand());
        let dir = root.path().join("instances").join(&id);
        let log_dir = root.path().join("logs");
        for dir in [&dir, &log_dir, &root.path().join("keeper")] {
            std::fs::create_dir_all(dir).unwrap();
        }
        let fifos = ["out.fifo", "err.fifo"].map(|name| {
            nix::unistd::mkfifo(&dir.join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
            let flags = nix::libc::O_NONBLOCK;
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(dir.join(name)).unwrap()
        });
        let spec = Spec {
            instance: id,
            service: "test".into(),
            argv: argv.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            env: vec![b"PATH=/usr/local/bin:/usr/bin:/bin".to_vec(), b"PYTHONUNBUFFERED=1".to_vec()],
            cwd: root.path().as_os_str().as_encoded_bytes().to_vec(),
            user: None,
            log_dir: log_dir.as_os_str().as_encoded_bytes().to_vec(),
            restart: RestartPolicy::Always,
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
        let fifos = fifos.into();
        Self { root, spec, kernel: Kernel::Real, held: Vec::new(), shim: None, _fifos: fifos }
    }

    /// `sh -c` in the instance's own folder.
    pub(crate) fn shell(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    pub(crate) fn python(script: &str) -> Self {
        Self::new(&["python3", "-c", script])
    }

    pub(crate) fn hold(&mut self, name: &str, fd: OwnedFd) {
        self.held.push((name.to_owned(), fd));
    }

    /// The program's working folder.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.root.path().join("instances").join(&self.spec.instance)
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.root.path().join("logs")
    }

    pub(crate) fn spawn_shim(&mut self) {
        std::fs::write(self.dir().join("spec"), self.spec.encode()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentd-shim"));
        command.arg("run").arg(self.dir()).stdin(Stdio::null());
        if self.kernel == Kernel::Old {
            command.env(NO_PIDFD_INFO_ENV, "1");
        }
        let names: Vec<&str> = self.held.iter().map(|(name, _)| name.as_str()).collect();
        command.env(HELD_FDS_ENV, names.join(":"));
        let fds: Vec<i32> = self.held.iter().map(|(_, fd)| std::os::fd::AsRawFd::as_raw_fd(fd)).collect();
        hand_over(&mut command, fds);
        self.shim = Some(command.spawn().unwrap());
    }

    /// Starts the shim and greets it.
    pub(crate) fn start(&mut self) -> Session {
        self.spawn_shim();
        self.connect(1)
    }

    pub(crate) fn connect(&self, epoch: u64) -> Session {
        self.try_connect(epoch, 0).unwrap()
    }

    pub(crate) fn try_connect(&self, epoch: u64, events_after: u64) -> Result<Session, Box<Message>> {
        let connection = wait_for("the control socket", || {
            Connection::connect(&self.dir(), "ctl.sock", Blocking::Yes).map_err(|error| error.to_string())
        });
        connection.set_receive_timeout(CAP).unwrap();
        let mut session = Session { connection, seq: 0, state: State::fresh(), events: Vec::new(), seen: 0 };
        match session.ask(Message::Hello { version_min: 1, version_max: 1, epoch, events_after }) {
            Message::Welcome { state, .. } => {
                session.state = state;
                Ok(session)
            }
            other => Err(Box::new(other)),
        }
    }

    pub(crate) fn shim_pid(&self) -> u32 {
        self.shim.as_ref().unwrap().id()
    }

    pub(crate) fn kill_shim(&mut self) {
        let mut shim = self.shim.take().unwrap();
        shim.kill().unwrap();
        shim.wait().unwrap();
    }

    /// Waits for the shim to end by itself.
    pub(crate) fn shim_status(&mut self) -> std::process::ExitStatus {
        let mut shim = self.shim.take().unwrap();
        wait_for("the shim to end", || shim.try_wait().unwrap().ok_or_else(|| "still running".to_owned()))
    }

    pub(crate) fn state(&self) -> State {
        let bytes =
            wait_for("a state file", || std::fs::read(self.dir().join("state")).map_err(|error| error.to_string()));
        State::decode(&bytes).unwrap()
    }

    pub(crate) fn wait_phase(&self, what: &str, mut is: impl FnMut(&Phase) -> bool) -> State {
        wait_for(what, || {
            let state = self.state();
            if is(&state.phase) { Ok(state) } else { Err(format!("{state:?}")) }
        })
    }

    pub(crate) fn wait_up(&self) -> Identity {
        self.wait_phase("the program to be up", |phase| matches!(phase, Phase::Up { .. }))
            .phase
            .program()
            .unwrap()
            .clone()
    }

    /// What the keeper does with an orphan of a dead shim: records its end, then reaps it.
    pub(crate) fn reap_as_keeper(&self, program: &Identity) {
        let wait_status = wait_for("the orphan's end", || match agentd_sys::process::stat(program.pid) {
            Some(stat) if stat.state == 'Z' => Ok(stat.exit_code),
            other => Err(format!("{other:?}")),
        });
        let record = ReapRecord {
            pid: program.pid,
            wait_status,
            pidfd_inode: program.pidfd_inode,
            start_ticks: program.start_ticks,
            real_ns: agentd_sys::clock::real_ns(),
        };
        let path = self.root.path().join("keeper/exits");
        OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(&record.encode()).unwrap();
        agentd_sys::process::reap(program.pid).unwrap();
    }

    /// The events file as it stands.
    pub(crate) fn recorded(&self) -> Vec<Event> {
        let bytes = std::fs::read(self.dir().join("events")).unwrap();
        bytes.as_chunks::<EVENT_BYTES>().0.iter().map(|record| Event::decode(record).unwrap()).collect()
    }

    /// The bytes of one stream, put together from all segments.
    pub(crate) fn log(&self, wanted: Source) -> String {
        let mut bytes = Vec::new();
        for number in 0..10_000 {
            let Ok(data) = std::fs::read(self.log_dir().join(segment_name(number))) else { continue };
            let index = std::fs::read(self.log_dir().join(index_name(number))).unwrap();
            let records: Vec<_> =
                index.as_chunks::<16>().0.iter().map(|record| IndexRecord::decode(*record).unwrap()).collect();
            for (at, record) in records.iter().enumerate() {
                let begin = usize::try_from(record.offset).unwrap();
                let end = records.get(at + 1).map_or(data.len(), |next| usize::try_from(next.offset).unwrap());
                if record.source == wanted {
                    bytes.extend_from_slice(&data[begin..end]);
                }
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    pub(crate) fn wait_log(&self, line: &str) {
        wait_for(&format!("{line:?} in the log"), || {
            let log = self.log(Source::Stdout);
            if log.lines().any(|found| found == line) { Ok(()) } else { Err(log) }
        });
    }
}

/// Leaves nothing behind, however the test went.
impl Drop for Instance {
    fn drop(&mut self) {
        if self.shim.is_none() {
            self.spawn_shim();
        }
        if let Ok(mut session) = self.try_connect(u64::MAX, 0) {
            session.ask(Message::Kill);
            if !std::thread::panicking() {
                self.wait_phase("the end of the instance", |phase| *phase == Phase::Down);
            }
        }
        self.kill_shim();
    }
}

impl Session {
    /// Sends a message and returns its answer; events that come in between are kept.
    pub(crate) fn ask(&mut self, message: Message) -> Message {
        self.seq += 1;
        let seq = self.seq;
        self.connection.send(&Envelope { seq, re: 0, message }, &[]).unwrap();
        loop {
            match self.connection.receive().unwrap() {
                Received::Message { envelope: Envelope { re, message, .. }, .. } if re == seq => return message,
                Received::Message { envelope: Envelope { message: Message::Event(event), .. }, .. } => {
                    self.events.push(event);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn order(&mut self, message: Message) {
        assert_eq!(self.ask(message), Message::Done);
    }

    pub(crate) fn send_only(&mut self, message: Message) {
        self.seq += 1;
        self.connection.send(&Envelope { seq: self.seq, re: 0, message }, &[]).unwrap();
    }

    pub(crate) fn ask_held(&mut self) -> (Vec<String>, Vec<OwnedFd>) {
        self.send_only(Message::AskHeld { instance: None });
        loop {
            match self.connection.receive().unwrap() {
                Received::Message { envelope: Envelope { message: Message::Held { names }, .. }, fds } => {
                    return (names, fds);
                }
                Received::Message { envelope: Envelope { message: Message::Event(event), .. }, .. } => {
                    self.events.push(event);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next event that fits; those before it are passed over.
    pub(crate) fn wait_event(&mut self, what: &str, mut is: impl FnMut(&EventKind) -> bool) -> Event {
        loop {
            while let Some(event) = self.events.get(self.seen).copied() {
                self.seen += 1;
                if is(&event.kind) {
                    return event;
                }
            }
            match self.connection.receive() {
                Ok(Received::Message { envelope: Envelope { message: Message::Event(event), .. }, .. }) => {
                    self.events.push(event);
                }
                other => panic!("waited for {what}, got {other:?} after {:?}", self.events),
            }
        }
    }

    pub(crate) fn wait_exit(&mut self) -> (Exit, Event) {
        let event = self.wait_event("an exit", |kind| matches!(kind, EventKind::Exited { .. }));
        match event.kind {
            EventKind::Exited { exit, .. } => (exit, event),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn wait_started(&mut self) -> Event {
        self.wait_event("a start", |kind| *kind == EventKind::Started)
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// Places descriptors from 3 on in the new process, as the keeper does.
#[expect(unsafe_code, reason = "pre_exec")]
fn hand_over(command: &mut Command, fds: Vec<i32>) {
    let place = move || {
        for (at, fd) in (3..).zip(&fds) {
            // SAFETY: plain system calls between fork and exec; the numbers are far apart from 3 and on.
            if unsafe { nix::libc::dup2(*fd, at) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(place) };
}

fn fastrand() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 20
}
