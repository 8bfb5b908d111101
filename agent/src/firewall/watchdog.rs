//! The second of two guards of a trial: a process outside the manager that puts the rules of before back at the
//! deadline. The first is the kernel's own timer; this one also tidies the table and the files.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::command;
use super::files::{Moment, Pending};

/// Below systemd; one trial at a time, so one name is enough.
const UNIT: &str = "agentd-firewall-rollback";
/// As sd_booted(3) has it.
const SYSTEMD_RUNS: &str = "/run/systemd/system";
/// A unit is made or stopped in milliseconds; the firewall's lock is held meanwhile, for which others wait 15 s.
const LIMITS: command::Limits = command::Limits { time: Duration::from_secs(5), bytes: 64 << 10 };
/// Between looks at whether the trial still runs: a confirmed one needs no guard.
const LOOK: Duration = Duration::from_millis(500);
/// After a failure, a trial is reverted again so often before its watchdog gives up: for ten minutes.
const TRIES: u32 = 120;
const RETRY: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{program} is not installed where distributions put it")]
    Missing { program: &'static str },
    #[error("{program} cannot be run")]
    Run {
        program: &'static str,
        #[source]
        source: command::Error,
    },
    #[error("our own program cannot be found; is /proc mounted?")]
    Own {
        #[source]
        source: std::io::Error,
    },
    #[error("{program} failed: {said}")]
    Failed { program: &'static str, said: String },
}

pub trait Watchdog: Send + Sync + fmt::Debug {
    /// From here on the trial is reverted after `window`, whatever becomes of this process.
    fn arm(&self, tx: &str, window: Duration, state_dir: &Path) -> Result<(), Error>;
    /// A watchdog that comes too late finds nothing to do, so failing here is harmless.
    fn disarm(&self, tx: &str);
}

/// Under systemd a timer of its own; elsewhere a process of its own session, which no end of ours ends.
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
    fn arm(&self, tx: &str, window: Duration, state_dir: &Path) -> Result<(), Error> {
        match self {
            Self::Systemd => {
                // Units of the last trial would hold the names.
                self.disarm(tx);
                let service = ["stop".to_owned(), format!("{UNIT}.service")];
                if let Err(error) = run_tool("systemctl", &service) {
                    tracing::debug!(tx, %error, "no rollback of an earlier trial was there");
                }
                let own = std::fs::read_link("/proc/self/exe").map_err(|source| Error::Own { source })?;
                run_tool("systemd-run", &timer(tx, window, &own, state_dir))
            }
            Self::Detached => {
                let words = ["firewall", "watchdog", tx, "--detach", "--state"].map(OsString::from);
                let words: Vec<OsString> = words.into_iter().chain([state_dir.into()]).collect();
                run("agentd firewall watchdog", Path::new("/proc/self/exe"), &words)
            }
        }
    }

    fn disarm(&self, tx: &str) {
        match self {
            Self::Systemd => {
                let stop = ["stop".to_owned(), format!("{UNIT}.timer")];
                let reset = ["reset-failed".to_owned(), format!("{UNIT}.timer"), format!("{UNIT}.service")];
                for arguments in [&stop[..], &reset[..]] {
                    if let Err(error) = run_tool("systemctl", arguments) {
                        tracing::debug!(tx, %error, "no timer of a trial was there");
                    }
                }
            }
            // It sees that the trial is over.
            Self::Detached => {}
        }
    }
}

/// A timer whose service tries as often as it takes, like the process that waits by itself.
fn timer(tx: &str, window: Duration, own: &Path, state_dir: &Path) -> Vec<OsString> {
    let words = [
        "--quiet".to_owned(),
        "--collect".to_owned(),
        "--timer-property=AccuracySec=100ms".to_owned(),
        "--property=Restart=on-failure".to_owned(),
        format!("--property=RestartSec={}s", RETRY.as_secs()),
        format!("--unit={UNIT}"),
        format!("--on-active={}ms", window.as_millis()),
    ];
    let rollback = ["firewall", "rollback", tx, "--state"].map(OsString::from);
    words.into_iter().map(OsString::from).chain([own.into()]).chain(rollback).chain([state_dir.into()]).collect()
}

fn run_tool<S: AsRef<OsStr>>(program: &'static str, words: &[S]) -> Result<(), Error> {
    let path = command::find(program).ok_or(Error::Missing { program })?;
    run(program, &path, words)
}

/// Without our environment: systemctl(1) that fails would tell NOTIFY_SOCKET its error, as if it were us.
fn run<S: AsRef<OsStr>>(program: &'static str, path: &Path, words: &[S]) -> Result<(), Error> {
    let output = command::run(path, words, LIMITS).map_err(|source| Error::Run { program, source })?;
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
        let pending = transactions.files().pending()?;
        match step(pending.as_ref(), tx, &Moment::now()) {
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
    fn a_rollback_that_fails_is_tried_again() {
        let words = timer("t", Duration::from_millis(1_500), Path::new("/own"), Path::new("/state"));
        let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
        let at =
            |word: &str| words.iter().position(|other| *other == word).unwrap_or_else(|| panic!("{word}: {words:?}"));
        let properties = [at("--property=Restart=on-failure"), at("--property=RestartSec=5s")];
        assert!(properties.iter().all(|property| *property < at("/own")));
        assert_eq!(words[at("/own")..], ["/own", "firewall", "rollback", "t", "--state", "/state"]);
        assert!(words.contains(&"--on-active=1500ms"));
    }

    #[test]
    fn a_tool_that_hangs_holds_nobody_up() {
        let start = std::time::Instant::now();
        let hung = run("sleep", &command::find("sleep").unwrap(), &["60"]);
        assert!(matches!(hung, Err(Error::Run { .. })) && start.elapsed() < Duration::from_secs(30), "{hung:?}");
    }

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
