//! The second of two guards of a trial: a process outside the manager that puts the rules of before back at the
//! deadline. The first is the kernel's own timer; this one also tidies the table and the files.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::command::{self, Limits};
use super::files::{Moment, Pending};

/// Below systemd, followed by the trial's own name: one that is about to end does not hold another's.
const UNIT: &str = "agentd-firewall-rollback";
/// As sd_booted(3) has it.
const SYSTEMD_RUNS: &str = "/run/systemd/system";
/// Between looks at whether the trial still runs: a confirmed one needs no guard.
const LOOK: Duration = Duration::from_millis(500);
/// After a failure, a trial is reverted again so often before its watchdog gives up: for ten minutes.
const TRIES: u32 = 120;
const RETRY: Duration = Duration::from_secs(5);
/// For systemd, on a host that is busy with what made somebody change its firewall.
const LIMITS: Limits = Limits { time: Duration::from_secs(10), bytes: 64 << 10 };
const SYSTEMD_RUN: &str = "/usr/bin/systemd-run";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("its guard cannot be started")]
    Run(#[from] command::Error),
    #[error("our own program cannot be found")]
    OwnProgram(#[source] std::io::Error),
    #[error("{program} failed: {said}")]
    Failed { program: &'static str, said: String },
}

pub trait Watchdog: Send + Sync + fmt::Debug {
    /// From here on the trial is reverted at its deadline, whatever becomes of this process. Once it is over, confirmed or
    /// not, its watchdog ends by itself.
    fn arm(&self, tx: &str, state_dir: &Path) -> Result<(), Error>;
}

/// Under systemd a unit of its own; elsewhere a process of its own session, which no end of ours ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnProcess {
    Systemd,
    Detached,
}

impl OwnProcess {
    /// A home is no part of the machine: its guard is not either.
    pub fn choose(is_the_machines: bool) -> Self {
        if is_the_machines && Path::new(SYSTEMD_RUNS).is_dir() { Self::Systemd } else { Self::Detached }
    }
}

impl Watchdog for OwnProcess {
    fn arm(&self, tx: &str, state_dir: &Path) -> Result<(), Error> {
        // Started at once, and not at the deadline: whoever is there by then tries until it is done.
        let guard = ["firewall", "watchdog", tx, "--state"].map(OsStr::new);
        match self {
            Self::Systemd => {
                let own = std::fs::read_link("/proc/self/exe").map_err(Error::OwnProgram)?;
                let unit = format!("--unit={UNIT}-{tx}");
                let settings =
                    ["--quiet", "--collect", "--property=Restart=on-failure", "--property=RestartSec=1s", &unit];
                let words = settings.map(OsStr::new).into_iter().chain([own.as_os_str()]).chain(guard);
                run(SYSTEMD_RUN, &words.chain([state_dir.as_os_str()]).collect::<Vec<_>>())
            }
            Self::Detached => {
                let words = guard.into_iter().chain([state_dir.as_os_str(), OsStr::new("--detach")]);
                run("/proc/self/exe", &words.collect::<Vec<_>>())
            }
        }
    }
}

fn run(program: &'static str, arguments: &[&OsStr]) -> Result<(), Error> {
    let output = command::run(Path::new(program), arguments, LIMITS)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Failed { program, said: output.stderr.trim().to_owned() })
}

/// What a watchdog does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Wait(Duration),
    Revert,
    /// The trial it guards is over.
    End,
}

pub fn step(pending: Option<&Pending>, tx: &str, now: &Moment) -> Step {
    match pending {
        Some(pending) if pending.tx == tx => match pending.left_ms(now) {
            0 => Step::Revert,
            left_ms => Step::Wait(Duration::from_millis(left_ms).min(LOOK)),
        },
        Some(_) | None => Step::End,
    }
}

/// Guards one trial to its end. An unreadable `pending.json` counts as one that is over its time.
pub fn guard(transactions: &super::transaction::Transactions, tx: &str) -> Result<(), super::transaction::Error> {
    let mut tries = 0;
    loop {
        let next = match transactions.files().pending() {
            Err(error) if error.is_illegible() => Step::Revert,
            pending => step(pending?.as_ref(), tx, &Moment::now()),
        };
        match next {
            Step::Wait(time) => std::thread::sleep(time),
            Step::End => return Ok(()),
            Step::Revert => match transactions.revert(Some(tx)) {
                Ok(_) => return Ok(()),
                Err(error) if tries >= TRIES => return Err(error),
                Err(_) => {
                    tries += 1;
                    std::thread::sleep(RETRY);
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::api::Origin;

    use super::*;
    use crate::firewall::Policy;

    #[test]
    fn a_trial_is_reverted_at_its_deadline_and_after_a_restart() {
        let now = Moment { boot_id: "b".into(), boot_ms: 1_000, unix_ms: 9 };
        let pending = Pending {
            tx: "t".into(),
            from: Policy::open(),
            to: Policy::open(),
            by: Origin::Local,
            document: None,
            boot_id: "b".into(),
            deadline_boot_ms: 1_200,
            deadline_unix_ms: 0,
            window_ms: 200,
            consent: None,
            sessions: Vec::new(),
        };
        assert_eq!(step(Some(&pending), "t", &now), Step::Wait(Duration::from_millis(200)));
        let far = Pending { deadline_boot_ms: 9_000, ..pending.clone() };
        assert_eq!(step(Some(&far), "t", &now), Step::Wait(LOOK), "a confirmed trial is noticed soon");
        assert_eq!(step(Some(&pending), "t", &Moment { boot_ms: 1_200, ..now.clone() }), Step::Revert);
        assert_eq!(step(Some(&pending), "t", &Moment { boot_id: "c".into(), ..now.clone() }), Step::Revert);
        assert_eq!(step(Some(&pending), "another", &now), Step::End);
        assert_eq!(step(None, "t", &now), Step::End);
    }
}
