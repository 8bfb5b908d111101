//! The supervisor against the real keeper and the real shim, from the binary that this agentd carries.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd::supervisor::{
    Config, Error, Gate, InstanceView, Label, Launch, PortWish, ProbePolicy, Readiness, RunAs, Scope, Supervisor,
    shim_binary,
};
use agentd_protocol::ids::{Epoch, InstanceId, ReleaseNumber};
use agentd_protocol::shim::event::EventKind;
use agentd_protocol::shim::spec::{RestartPolicy, User};
use agentd_protocol::shim::state::{Exit, Phase};
use agentd_sys::process;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Far above what anything here takes on a busy machine.
const CAP: Duration = Duration::from_secs(40);

const SERVER: &str = r#"
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.path.exists("healthy") else 503)
        self.end_headers()
print("serving", os.environ["PORT"], flush=True)
print("to stderr", file=sys.stderr, flush=True)
http.server.HTTPServer((sys.argv[1], int(sys.argv[2] or os.environ["PORT"])), Handler).serve_forever()
"#;

struct Home {
    root: tempfile::TempDir,
    epoch: u64,
    keeper: Option<u32>,
}

impl Home {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(root.path().join("server.py"), SERVER).unwrap();
        std::fs::write(root.path().join("healthy"), "").unwrap();
        Self { root, epoch: 0, keeper: None }
    }

    /// A manager; its end is the token's.
    async fn manager(&mut self) -> (Supervisor, CancellationToken) {
        self.epoch += 1;
        let cancel = CancellationToken::new();
        // A plain user becomes nobody else.
        let run_as = nix::unistd::geteuid().is_root().then_some(User { uid: 65_534, gid: 65_534 });
        let config = Config {
            run_dir: self.root.path().join("run"),
            log_dir: self.root.path().join("log"),
            shim: shim_binary::install(self.root.path()).unwrap(),
            epoch: Epoch(self.epoch),
            events_kept: BTreeMap::new(),
            ports: 20_000..=29_999,
            run_as,
            scope: Scope::Inherited,
        };
        let supervisor = Supervisor::start(config, cancel.clone()).await.unwrap();
        self.keeper = supervisor.keeper_pid();
        (supervisor, cancel)
    }

    fn instance_dir(&self, id: &InstanceId) -> PathBuf {
        self.root.path().join("run/instances").join(id.as_str())
    }

    fn launch(&self, argv: &[&str]) -> Launch {
        Launch {
            service: "api".into(),
            label: Label::Instance { release: ReleaseNumber(3) },
            argv: argv.iter().map(|&arg| arg.to_owned()).collect(),
            env: vec![("PATH".into(), std::env::var("PATH").unwrap())],
            cwd: self.root.path().to_owned(),
            port: None,
            held: Vec::new(),
            restart: RestartPolicy::Always,
            stop_signal: 15,
            stop_timeout: Duration::from_secs(5),
            run_limit: None,
            gate: Gate::None,
            probe: ProbePolicy { interval: Duration::from_millis(200), ..ProbePolicy::default() },
            user: RunAs::Configured,
            hosts_file: None,
        }
    }

    async fn server(&self, supervisor: &Supervisor, address: &str, port: &str) -> Launch {
        let reserved = supervisor.reserve(PortWish::Pool).await.unwrap();
        let mut launch = self.launch(&[&python(), "server.py", address, port]);
        launch.env.push(("PORT".into(), reserved.port.to_string()));
        launch.port = Some(reserved);
        launch.gate = Gate::Http { path: "/".into(), host: None };
        launch
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A test that failed half way leaves nothing running: whatever carries an id of ours, then the keeper.
        let run_dir = self.root.path().join("run/instances");
        let ids = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
        let ids: Vec<String> = ids.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        self.keeper.into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
        for id in ids {
            let lock = self.root.path().join("run/instances").join(&id).join("lock");
            agentd_sys::files::read_pid(&lock).into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
            tree(&id).into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
        }
    }
}

/// The interpreter itself: a wrapper in PATH may belong to a user who shares nothing with the program's.
fn python() -> String {
    let system = Path::new("/usr/bin/python3");
    if system.exists() { system.to_str().unwrap().to_owned() } else { "python3".to_owned() }
}

fn send(pid: u32, signal: Signal) {
    // ESRCH: it has ended, which is what the sender wants.
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

/// Living processes marked with the id.
fn tree(id: &str) -> Vec<u32> {
    let mark = format!("AGENTD_INSTANCE={id}");
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let mut environ = Vec::new();
            let read =
                std::fs::File::open(format!("/proc/{pid}/environ")).and_then(|mut f| f.read_to_end(&mut environ));
            read.is_ok() && environ.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes())
        })
        .collect()
}

async fn until(supervisor: &Supervisor, id: &InstanceId, wanted: impl Fn(&InstanceView) -> bool) -> InstanceView {
    let mut views = supervisor.view();
    let mut last = None;
    let found = timeout(CAP, async {
        loop {
            last = views.borrow_and_update().get(id).cloned();
            if let Some(view) = last.as_ref().filter(|view| wanted(view)) {
                return view.clone();
            }
            views.changed().await.unwrap();
        }
    });
    let found = found.await;
    found.unwrap_or_else(|_| panic!("not seen; last view: {last:#?}; logs: {:?}", supervisor.tail("api", id, 20)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_lives_through_crashes_and_managers_and_leaves_nothing() {
    let mut home = Home::new();
    let (supervisor, cancel) = home.manager().await;
    let mut events = supervisor.events().unwrap();
    let launch = home.server(&supervisor, "127.0.0.1", "").await;
    let port = launch.port.as_ref().unwrap().port;
    let id = supervisor.launch(launch).await.unwrap();
    let first = until(&supervisor, &id, InstanceView::is_ready).await;
    assert_eq!((first.port, first.restarts), (Some(port), 0));
    assert!(first.warnings.is_empty(), "{:?}", first.warnings);
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(matches!(supervisor.remove(&id).await, Err(Error::NotDown { .. })));

    send(first.pid().unwrap(), Signal::SIGKILL);
    let second = until(&supervisor, &id, |view| view.is_ready() && view.incarnation > first.incarnation).await;
    assert_eq!(second.restarts, 1);
    assert_eq!(second.last_exit.unwrap().exit, Exit::Signal { number: 9, core: false });
    let tail = supervisor.tail("api", &id, 50).unwrap();
    assert_eq!(tail.iter().filter(|line| **line == format!("serving {port}")).count(), 2, "{tail:?}");
    assert!(tail.iter().any(|line| line == "to stderr"), "{tail:?}");
    let told = timeout(CAP, events.recv()).await.unwrap().unwrap();
    assert!(matches!(told.1.kind, EventKind::Started), "{told:?}");

    cancel.cancel();
    drop(supervisor);
    let (supervisor, _cancel) = home.manager().await;
    let adopted = supervisor.view().borrow().get(&id).cloned().unwrap();
    assert_eq!((adopted.pid(), adopted.shim_pid), (second.pid(), second.shim_pid), "the same processes");
    assert_eq!((adopted.label, adopted.port), (second.label, second.port));
    assert!(matches!(adopted.readiness, Readiness::Ready { .. }), "{:?}", adopted.readiness);
    let names: Vec<String> = supervisor.held(&id).await.unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["reserve.port"]);
    let taken = supervisor.reserve(PortWish::Fixed(port)).await;
    assert!(matches!(taken, Err(Error::PortTaken { .. })), "the port is known to be ours: {taken:?}");

    supervisor.restart(&id).await.unwrap();
    let third = until(&supervisor, &id, |view| view.is_ready() && view.incarnation > second.incarnation).await;
    assert_eq!(third.restarts, 1, "asked for");
    send(third.shim_pid.unwrap(), Signal::SIGKILL);
    let adopted = until(&supervisor, &id, |view| view.shim_pid.is_some_and(|pid| Some(pid) != third.shim_pid)).await;
    assert_eq!(adopted.pid(), third.pid(), "a dead shim costs the program nothing");

    supervisor.stop(&id, None).await.unwrap();
    assert_eq!(tree(id.as_str()), Vec::<u32>::new());
    assert_eq!(supervisor.view().borrow()[&id].phase, Phase::Down);
    let shim = supervisor.view().borrow()[&id].shim_pid.unwrap();
    supervisor.remove(&id).await.unwrap();
    assert!(!home.instance_dir(&id).exists());
    assert!(process::stat(shim).is_none_or(|stat| stat.state == 'Z'), "the shim has left");
    assert!(supervisor.view().borrow().is_empty());
    assert!(!supervisor.tail("api", &id, 5).unwrap().is_empty(), "logs stay");
    supervisor.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_ends_once_and_its_exit_is_known_to_the_next_manager() {
    let mut home = Home::new();
    let (supervisor, cancel) = home.manager().await;
    let launch = Launch {
        service: "build.api".into(),
        label: Label::Build { key: "k".into() },
        restart: RestartPolicy::Never,
        ..home.launch(&["/bin/sh", "-c", "echo one; echo two >&2; exit 7"])
    };
    let id = supervisor.launch(launch).await.unwrap();
    let last = timeout(CAP, supervisor.finished(&id)).await.unwrap().unwrap();
    assert_eq!((last.exit, last.incarnation), (Exit::Code(7), 1));
    assert_eq!(supervisor.tail("build.api", &id, 5).unwrap(), ["one", "two"]);
    cancel.cancel();
    let (supervisor, _cancel) = home.manager().await;
    let again = timeout(CAP, supervisor.finished(&id)).await.unwrap().unwrap();
    // The times differ by what lies between the exit and its record.
    assert_eq!((again.exit, again.incarnation, again.uptime_ms), (last.exit, last.incarnation, last.uptime_ms));
    supervisor.remove(&id).await.unwrap();
    supervisor.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_in_the_wrong_place_are_told_so() {
    let mut home = Home::new();
    let (supervisor, _cancel) = home.manager().await;
    let public = home.server(&supervisor, "0.0.0.0", "").await;
    let public = supervisor.launch(public).await.unwrap();
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let other = home.server(&supervisor, "127.0.0.1", &elsewhere.to_string()).await;
    let other = supervisor.launch(other).await.unwrap();

    let view = until(&supervisor, &public, InstanceView::is_ready).await;
    assert!(view.warnings[0].starts_with("run.public-bind"), "{:?}", view.warnings);
    let view = until(&supervisor, &other, |view| !view.warnings.is_empty()).await;
    assert!(view.warnings[0].contains(&format!("listens on {elsewhere}")), "{:?}", view.warnings);
    assert!(!view.is_ready());

    std::fs::remove_file(home.root.path().join("healthy")).unwrap();
    supervisor.probe_now(&public);
    until(&supervisor, &public, |view| matches!(view.readiness, Readiness::Failing { .. })).await;
    std::fs::write(home.root.path().join("healthy"), "").unwrap();
    until(&supervisor, &public, InstanceView::is_ready).await;
    for id in [public, other] {
        supervisor.stop(&id, Some(Duration::from_secs(1))).await.unwrap();
        supervisor.remove(&id).await.unwrap();
    }
    supervisor.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_keeper_serves_what_the_old_one_left() {
    let mut home = Home::new();
    let (supervisor, _cancel) = home.manager().await;
    let id = supervisor.launch(home.launch(&["/bin/sh", "-c", "sleep 1000"])).await.unwrap();
    let first = until(&supervisor, &id, InstanceView::is_ready).await;
    let old = supervisor.keeper_pid().unwrap();
    send(old, Signal::SIGKILL);
    send(first.shim_pid.unwrap(), Signal::SIGKILL);
    let view = until(&supervisor, &id, |view| view.shim_pid.is_some_and(|pid| Some(pid) != first.shim_pid)).await;
    assert_eq!(view.pid(), first.pid(), "the program ran on");
    let since = Instant::now();
    while supervisor.keeper_pid() == Some(old) {
        assert!(since.elapsed() < CAP, "no new keeper");
        sleep(Duration::from_millis(5)).await; // poll: capped above
    }
    home.keeper = supervisor.keeper_pid();
    supervisor.stop(&id, None).await.unwrap();
    assert_eq!(tree(id.as_str()), Vec::<u32>::new());
    supervisor.remove(&id).await.unwrap();
    supervisor.shutdown().await.unwrap();
}
