//! The edge as a process of its own: this test program, started again with sockets as a shim hands them over.

use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::edge::run;

/// A shell that knows its pid and becomes the edge under it.
const HAND_OVER: &str = "LISTEN_PID=$$ LISTEN_FDS=5 LISTEN_FDNAMES=external:control:internal:dns-udp:dns-tcp \
    exec \"$0\" --exact edge::tests::process::edge_process --nocapture";
const SNAPSHOT_ENV: &str = "AGENTD_TEST_EDGE_SNAPSHOT";

/// Not a test by itself: what the other tests here start. Without their environment there is nothing to run.
#[test]
fn edge_process() {
    let Some(snapshot) = std::env::var_os(SNAPSHOT_ENV) else { return };
    run(EdgeOptions::from_env(Some(snapshot.into())).unwrap()).unwrap();
}

struct Process {
    child: Child,
}

impl Process {
    fn start(host: &Host) -> Self {
        let sockets: [OwnedFd; 5] = [
            host.external.try_clone().unwrap().into(),
            host.control.try_clone().unwrap().into(),
            host.internal.try_clone().unwrap().into(),
            host.dns_udp.try_clone().unwrap().into(),
            host.dns_tcp.try_clone().unwrap().into(),
        ];
        // Above the numbers they are to have, so that none is overwritten before it is taken.
        let above = |socket: &OwnedFd| fcntl(socket, FcntlArg::F_DUPFD_CLOEXEC(64)).unwrap();
        let parked = sockets.each_ref().map(above);
        let mut shell = Command::new("/bin/sh");
        hand_over(&mut shell, parked);
        let child = shell
            .args(["-c", HAND_OVER])
            .arg(std::env::current_exe().unwrap())
            .env(SNAPSHOT_ENV, host.path("snapshot.json"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for descriptor in parked {
            nix::unistd::close(descriptor).unwrap();
        }
        Self { child }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

#[expect(unsafe_code, reason = "descriptors take their numbers between fork and exec")]
fn hand_over(command: &mut Command, parked: [RawFd; 5]) {
    let take = move || {
        for (number, socket) in (3..).zip(parked) {
            // SAFETY: dup2 takes plain numbers and is async-signal-safe; what stood at `number` is not used before exec.
            if unsafe { libc::dup2(socket, number) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure calls nothing but dup2, and allocates nothing.
    unsafe { command.pre_exec(take) };
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended as it should.
        let _ = self.child.kill();
        let _ = self.child.wait(); // reaped if it was there
    }
}

#[tokio::test]
async fn killed_and_started_again_no_connection_is_refused() {
    let host = Host::new();
    let client = host.start_client();
    let mut edge = Process::start(&host);
    let pid = connected(&client).await;
    assert_eq!(pid, edge.child.id());
    client.publish(snapshot(1, &[(1, backend("one", open()).await)])).await.unwrap();
    assert_eq!(host.get().await, "HTTP/1.1 200 OK one");
    edge.child.kill().unwrap();
    edge.child.wait().unwrap();
    let mut view = client.view();
    within("the loss to be seen", view.wait_for(|view| view.edge.is_none())).await.unwrap();
    let queued = host.get();
    let restarted = async {
        edge = Process::start(&host);
    };
    let (answer, ()) = tokio::join!(queued, restarted);
    assert_eq!(answer, "HTTP/1.1 200 OK one", "by the copy on disk");
    let is_new = |view: &crate::edge::EdgeView| view.edge.as_ref().is_some_and(|edge| edge.pid != pid);
    within("the new edge", view.wait_for(is_new)).await.unwrap();
    // Removed while the old edge was there, never known to the new one.
    client.publish(snapshot(2, &[])).await.unwrap();
    assert_eq!(within("idle", client.wait_idle(&key(1), CAP)).await, Idleness::Idle);
}

#[tokio::test]
async fn an_interrupt_is_ignored_and_a_termination_drains() {
    let host = Host::new();
    let client = host.start_client();
    let mut edge = Process::start(&host);
    connected(&client).await;
    static GATE: Gate = Gate::new(0);
    client.publish(snapshot(1, &[(1, backend("one", &GATE).await)])).await.unwrap();
    edge.signal(Signal::SIGINT);
    let mut slow = TcpStream::connect(host.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    within("the request to arrive", GATE.asked.acquire()).await.unwrap().forget();
    edge.signal(Signal::SIGTERM);
    GATE.allowed.add_permits(1);
    let mut answer = String::new();
    within("the answer", slow.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("one"), "{answer}");
    drop(slow);
    let ended = lifecycle::spawn_blocking("test wait", move || edge.child.wait().unwrap());
    assert!(within("the end", ended).await.unwrap().success());
}
