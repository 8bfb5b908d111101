//! The manager's side of the keeper against the real one, from the shim that this agentd carries.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agentd::supervisor::keeper::{Error, Keeper};
use agentd::supervisor::{Scope, shim_binary};
use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::wire::Refusal;
use agentd_sys::process;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;

/// Far above what anything here takes on a busy machine.
const CAP: Duration = Duration::from_secs(20);

struct Home {
    root: tempfile::TempDir,
    cancel: CancellationToken,
    /// Every keeper seen, to be ended with the test.
    pids: Vec<u32>,
}

impl Home {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("run")).unwrap();
        Self { root, cancel: CancellationToken::new(), pids: Vec::new() }
    }

    async fn keeper(&mut self) -> Keeper {
        let shim_path = shim_binary::install(self.root.path()).unwrap();
        let run_dir = self.root.path().join("run");
        let log_path = self.root.path().join("keeper.log");
        let keeper =
            Keeper::ensure(&run_dir, &shim_path, &log_path, Scope::Inherited, self.cancel.clone()).await.unwrap();
        self.pids.push(keeper.pid());
        keeper
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.cancel.cancel();
        for pid in &self.pids {
            send(*pid, Signal::SIGKILL);
        }
    }
}

fn send(pid: u32, signal: Signal) {
    // ESRCH: it has ended, which is what the sender wants or sees by other means.
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

async fn is_gone(pid: u32) {
    let since = Instant::now();
    while process::stat(pid).is_some_and(|stat| stat.state != 'Z') {
        assert!(since.elapsed() < CAP, "pid {pid} lives on");
        tokio::time::sleep(Duration::from_millis(5)).await; // poll: capped above
    }
}

#[tokio::test]
async fn the_keeper_outlives_its_manager_and_is_found_again() {
    let mut home = Home::new();
    let keeper = home.keeper().await;
    let pid = keeper.pid();
    assert_ne!(process::stat(pid).unwrap().parent, std::process::id(), "never our child");
    assert_eq!(process::stat(pid).unwrap().session, pid, "its own session");
    let environ = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(environ.split('\0').all(|entry| entry.is_empty() || entry.starts_with("PATH=")), "{environ}");
    assert_eq!(keeper.list().await.unwrap(), []);
    home.cancel.cancel();
    drop(keeper);

    home.cancel = CancellationToken::new();
    let again = home.keeper().await;
    assert_eq!(again.pid(), pid);
    assert_eq!(again.view().borrow().generation, 1);
}

#[tokio::test]
async fn a_killed_keeper_is_replaced_and_the_generation_says_so() {
    let mut home = Home::new();
    let keeper = home.keeper().await;
    let mut view = keeper.view();
    let first = *view.borrow_and_update();
    send(first.pid, Signal::SIGKILL);
    tokio::time::timeout(CAP, view.changed()).await.expect("another keeper in time").unwrap();
    let second = *view.borrow();
    home.pids.push(second.pid);
    assert_ne!(first.pid, second.pid);
    assert_eq!(second.generation, 2);
    assert_eq!(keeper.list().await.unwrap(), []);
}

#[tokio::test]
async fn refusals_and_the_end_are_told_apart() {
    let mut home = Home::new();
    let keeper = home.keeper().await;
    let pid = keeper.pid();
    let nowhere = id("000000000000");
    let (end, _other): (OwnedFd, OwnedFd) = nix::unistd::pipe().unwrap();
    for refused in [
        keeper.spawn(&nowhere, vec![("listen.web".into(), end)]).await.unwrap_err(),
        keeper.held(&nowhere).await.unwrap_err(),
    ] {
        assert!(matches!(refused, Error::Refused { reason: Refusal::Unknown, .. }), "{refused}");
    }
    keeper.forget(&nowhere).await.unwrap();
    keeper.shutdown().await.unwrap();
    assert!(matches!(keeper.list().await, Err(Error::Ended)));
    is_gone(pid).await;
}

#[tokio::test]
async fn a_stopped_keeper_costs_a_caller_five_seconds_and_no_more() {
    let mut home = Home::new();
    let keeper = home.keeper().await;
    send(keeper.pid(), Signal::SIGSTOP);
    let since = Instant::now();
    let answers = tokio::join!(keeper.list(), keeper.list());
    assert!(matches!(answers, (Err(Error::Silent), Err(Error::Silent))), "{answers:?}");
    assert!(since.elapsed() < Duration::from_secs(8));
    send(keeper.pid(), Signal::SIGCONT);
    assert_eq!(keeper.list().await.unwrap(), []);
}
