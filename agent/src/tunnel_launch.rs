//! A managed tunnel's program is run as services are, under a shim: it outlives the manager and is found again. Another
//! setting is another program, no section is none.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::spec::RestartPolicy;
use agentd_protocol::shim::state::Phase;
use agentd_protocol::stack::StopSignal;
use agentd_sys::causes::chain;
use agentd_sys::files::{Durability, write_atomic};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::lifecycle;
use crate::supervisor::{self, Gate, InstanceView, Label, Launch, ProbePolicy, RunAs, Supervisor};
use crate::tunnel::{self, Command, Managed, Trouble};

/// Longer than the grace period the program itself was given.
const STOP_TIMEOUT: Duration = Duration::from_secs(35);
/// Between attempts while a file is missing or cannot be used.
const RETRY: Duration = Duration::from_secs(15);
/// Also the name of its log.
const SERVICE: &str = "tunnel";
const SECRET: &str = "listen.tunnel-secret";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Tunnel(#[from] tunnel::Error),
    #[error(transparent)]
    Supervisor(#[from] supervisor::Error),
    #[error("cannot write {}; look at the folder's owner and the free space", path.display())]
    Config {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the tunnel's secret cannot be handed over")]
    HandOver(#[source] io::Error),
    #[error("this agentd is ending")]
    Ending,
}

/// Where the program is found, and its files lie.
#[derive(Debug, Clone)]
pub struct TunnelPlace {
    pub dir: PathBuf,
    /// PATH of the manager.
    pub search_path: String,
    /// Of the external listener.
    pub origin_port: u16,
}

/// What is done to the program while the manager lives.
#[derive(Debug)]
pub struct Running {
    supervisor: Supervisor,
    /// Nothing is started any more.
    ended: CancellationToken,
    /// And nothing is being started.
    done: CancellationToken,
}

/// Sees to it that the program runs as `managed` says, or that none does.
pub fn start(
    supervisor: Supervisor,
    managed: Option<Managed>,
    place: TunnelPlace,
    told: Option<(mpsc::Receiver<()>, Trouble)>,
    cancel: &CancellationToken,
) -> Running {
    let (ended, done) = (cancel.child_token(), CancellationToken::new());
    let (keeping, finished) = (ended.clone(), done.clone().drop_guard());
    let keeper = supervisor.clone();
    lifecycle::spawn("tunnel", async move {
        let _finished = finished;
        match (managed, told) {
            (Some(managed), Some((restarts, trouble))) => {
                Keeper { supervisor: keeper, managed, place, restarts, trouble, ended: keeping }.run().await;
            }
            (Some(_) | None, _) => {
                if let Err(error) = stop_all(&keeper).await {
                    tracing::warn!(error = chain(&error), "the tunnel no setting asks for any more has not stopped");
                }
            }
        }
    });
    Running { supervisor, ended, done }
}

impl Running {
    pub async fn down(&self) -> Result<(), supervisor::Error> {
        self.ended.cancel();
        self.done.cancelled().await;
        stop_all(&self.supervisor).await
    }
}

struct Keeper {
    supervisor: Supervisor,
    managed: Managed,
    place: TunnelPlace,
    restarts: mpsc::Receiver<()>,
    trouble: Trouble,
    ended: CancellationToken,
}

impl Keeper {
    async fn run(mut self) {
        while !self.ended.is_cancelled() {
            match self.ensure().await {
                Ok(id) => {
                    self.trouble.send_replace(None);
                    return self.follow(&id).await;
                }
                Err(error) => {
                    let said = chain(&error);
                    if self.trouble.borrow().as_deref() != Some(said.as_str()) {
                        tracing::warn!("the tunnel cannot be started: {said}");
                    }
                    self.trouble.send_replace(Some(said));
                }
            }
            // Cancelled: the loop's condition says so.
            let _ = tokio::time::timeout(RETRY, self.ended.cancelled()).await;
        }
    }

    /// What runs is left alone while the new settings cannot be used.
    async fn ensure(&self) -> Result<InstanceId, Error> {
        let (managed, place) = (self.managed.clone(), self.place.clone());
        let prepared = lifecycle::spawn_blocking("tunnel files", move || prepare(&managed, &place));
        let (command, secret) = prepared.await.map_err(|_| Error::Ending)??;
        let running = running(&self.supervisor);
        if let [view] = running.as_slice()
            && view.phase != Phase::Down
            && matches!(&view.label, Label::Tunnel { settings } if *settings == command.settings())
            && self.holds(view, &secret).await
        {
            return Ok(view.id.clone());
        }
        if !running.is_empty() {
            tracing::info!("the tunnel's settings are others than those it runs with: it is replaced");
            stop_all(&self.supervisor).await?;
        }
        let path = config_file(&self.place.dir);
        write_config(&path, &command).map_err(|source| Error::Config { path, source })?;
        let held = handed_over(&secret).map_err(Error::HandOver)?;
        Ok(self.supervisor.launch(launch(command, held)).await?)
    }

    async fn holds(&self, view: &InstanceView, secret: &[u8]) -> bool {
        let held = self.supervisor.held(&view.id).await.unwrap_or_default();
        let file = held.into_iter().find(|(name, _)| name == SECRET).map(|(_, fd)| std::fs::File::from(fd));
        let mut found = vec![0; secret.len() + 1];
        // One byte more than it should have: a longer one is another.
        file.is_some_and(|file| file.read_at(&mut found, 0).is_ok_and(|count| found[..count] == *secret))
    }

    async fn follow(&mut self, id: &InstanceId) {
        let mut views = self.supervisor.view();
        loop {
            let trouble = views.borrow_and_update().get(id).and_then(trouble);
            self.trouble.send_if_modified(|told| std::mem::replace(told, trouble.clone()) != trouble);
            tokio::select! {
                () = self.ended.cancelled() => return,
                changed = views.changed() => if changed.is_err() { return },
                restart = self.restarts.recv() => {
                    if restart.is_none() { return }
                    if let Err(error) = self.supervisor.restart(id).await {
                        tracing::warn!(error = chain(&error), "the tunnel is not started again");
                    }
                }
            }
        }
    }
}

fn prepare(managed: &Managed, place: &TunnelPlace) -> Result<(Command, Vec<u8>), Error> {
    let program = tunnel::program(managed.program.as_deref(), &place.search_path)?;
    let secret = tunnel::secret(&managed.identity)?;
    Ok((tunnel::command(managed, &program, &config_file(&place.dir), place.origin_port), secret))
}

/// Why nothing answers, where the shim knows.
fn trouble(view: &InstanceView) -> Option<String> {
    match view.phase {
        Phase::Backoff { .. } | Phase::Quarantined { .. } => {
            Some("cloudflared keeps ending; `agentctl logs tunnel` shows why".to_owned())
        }
        Phase::Down | Phase::Starting { .. } | Phase::Up { .. } | Phase::Stopping { .. } | Phase::Clearing { .. } => {
            None
        }
    }
}

fn running(supervisor: &Supervisor) -> Vec<InstanceView> {
    let views = supervisor.view().borrow().clone();
    views.values().filter(|view| matches!(view.label, Label::Tunnel { .. })).cloned().collect()
}

async fn stop_all(supervisor: &Supervisor) -> Result<(), supervisor::Error> {
    for view in running(supervisor) {
        if view.phase != Phase::Down {
            supervisor.stop(&view.id, None).await?;
        }
        supervisor.remove(&view.id).await?;
    }
    Ok(())
}

fn launch(command: Command, secret: OwnedFd) -> Launch {
    Launch {
        service: SERVICE.to_owned(),
        label: Label::Tunnel { settings: command.settings() },
        argv: command.argv,
        env: command.env,
        cwd: PathBuf::from("/"),
        port: None,
        held: vec![(SECRET.to_owned(), secret)],
        restart: RestartPolicy::Always,
        stop_signal: StopSignal::Term.number(),
        stop_timeout: STOP_TIMEOUT,
        run_limit: None,
        gate: Gate::None,
        probe: ProbePolicy::default(),
        user: RunAs::Configured,
        hosts_file: None,
    }
}

fn config_file(dir: &Path) -> PathBuf {
    dir.join("config.yml")
}

/// For the program's user to read; no secret is in it.
fn write_config(path: &Path, command: &Command) -> io::Result<()> {
    let dir = path.parent().expect("it is below a folder");
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    write_atomic(path, command.config.as_bytes(), 0o644, Durability::Crash)
}

/// In memory alone: the file itself need not be the program's user's to read, and there is no second one to forget. The
/// shim keeps it for the program's next starts.
fn handed_over(secret: &[u8]) -> io::Result<OwnedFd> {
    let memory = memfd_create(c"tunnel-secret", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let file = std::fs::File::from(memory);
    file.write_all_at(secret, 0)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_secret_handed_over_is_read_again_at_every_start_and_never_changed() {
        let fd = handed_over(b"hush").unwrap();
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        for _ in 0..2 {
            assert_eq!(std::fs::read(&path).unwrap(), b"hush");
        }
        assert!(std::fs::write(&path, "other").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"hush");
    }
}
