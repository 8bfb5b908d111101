//! Whether new instances may be routed to: a pure verdict over what the supervisor sees, and the wait for it.

use std::time::Duration;

use agentd_protocol::api::DeployPhase;
use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::state::{Exit, Phase};
use tokio::sync::watch;

use super::routing::Views;
use crate::supervisor::{InstanceView, Readiness};

/// Exits before the first success after which a deploy gives up.
const EXITS_MAX: u32 = 3;
/// The gate's own limit beyond every start deadline, for a supervisor that does not answer.
const SLACK: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Waiting,
    Passed,
    Failed(Failed),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) instance: InstanceId,
    pub(super) phase: DeployPhase,
    pub(super) cause: String,
}

/// All instances are ready, or one of them will not be.
pub(super) fn judge(ids: &[InstanceId], views: &Views) -> Verdict {
    let mut all_ready = true;
    for id in ids {
        let Some(view) = views.get(id) else {
            all_ready = false;
            continue;
        };
        if view.is_ready() {
            continue;
        }
        if let Some((phase, cause)) = failure(view) {
            return Verdict::Failed(Failed { instance: id.clone(), phase, cause });
        }
        all_ready = false;
    }
    if all_ready { Verdict::Passed } else { Verdict::Waiting }
}

fn failure(view: &InstanceView) -> Option<(DeployPhase, String)> {
    if let Some(last) = &view.last_exit {
        let said = describe(last.exit);
        match (&view.phase, last.exit) {
            (_, Exit::ExecFailed { .. }) => return Some((DeployPhase::Start, said)),
            (Phase::Quarantined { .. }, _) => {
                return Some((DeployPhase::Start, format!("keeps ending before it is ready: {said}")));
            }
            (Phase::Down, _) => return Some((DeployPhase::Start, format!("ended before it was ready: {said}"))),
            _ if view.restarts >= EXITS_MAX => {
                return Some((
                    DeployPhase::Start,
                    format!("ended {} times before it was ready: {said}", view.restarts),
                ));
            }
            _ => {}
        }
    }
    matches!(view.readiness, Readiness::StartDeadlineOver { .. }).then(|| (DeployPhase::Health, not_ready(view)))
}

fn not_ready(view: &InstanceView) -> String {
    let last = last_probe(view);
    match view.warnings.first() {
        Some(warning) => format!("not ready within its start deadline: {last}; {warning}"),
        None => format!("not ready within its start deadline: {last}"),
    }
}

/// What the newest probe tells, with the cure where there is one.
pub(super) fn last_probe(view: &InstanceView) -> String {
    use agentd_protocol::api::ProbeOutcome as Outcome;
    match view.probes.back().map(|probe| &probe.outcome) {
        None => "no probe was answered".to_owned(),
        Some(Outcome::Passed { .. }) => "the last probe passed, an earlier one did not".to_owned(),
        Some(Outcome::Status { status }) => format!("the health check answers {status}, 200 to 399 would pass"),
        Some(Outcome::Refused) => "nothing listens on its port: it must listen on 127.0.0.1:$PORT".to_owned(),
        Some(Outcome::TimedOut) => "the health check does not answer in time".to_owned(),
        Some(Outcome::Failed { error }) => format!("the health check fails: {error}"),
    }
}

/// How a program ended, in words.
pub(super) fn describe(exit: Exit) -> String {
    match exit {
        Exit::Code(127) => "exit code 127 (command not found)".to_owned(),
        Exit::Code(126) => "exit code 126 (command cannot be executed)".to_owned(),
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal { number, core } => {
            let name = signal_name(number);
            if core { format!("killed by {name} (core dumped)") } else { format!("killed by {name}") }
        }
        Exit::ExecFailed { errno } => {
            format!("cannot be executed: {}", nix::errno::Errno::from_raw(errno).desc())
        }
        Exit::TimeLimit => "stopped because its time limit was over".to_owned(),
        Exit::Unknown => "ended, and nobody was there to see how".to_owned(),
    }
}

/// `SIGSEGV`
pub(super) fn signal_name(number: u8) -> String {
    let signal = nix::sys::signal::Signal::try_from(i32::from(number));
    signal.map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

/// Waits for a verdict other than `Waiting`; at the latest `deadline` and some slack from now.
pub(super) async fn wait(
    ids: &[InstanceId],
    mut views: watch::Receiver<std::sync::Arc<Views>>,
    deadline: Duration,
) -> Verdict {
    let limit = tokio::time::sleep(deadline + SLACK);
    tokio::pin!(limit);
    loop {
        let verdict = judge(ids, &views.borrow_and_update());
        if verdict != Verdict::Waiting {
            return verdict;
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() {
                return over(ids, "the supervisor ended");
            },
            () = &mut limit => return over(ids, "no verdict from the supervisor within the start deadline"),
        }
    }
}

fn over(ids: &[InstanceId], cause: &str) -> Verdict {
    match ids.first() {
        Some(first) => {
            Verdict::Failed(Failed { instance: first.clone(), phase: DeployPhase::Start, cause: cause.to_owned() })
        }
        None => Verdict::Passed,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::testing::{ended, id, not_ready, ready, views};
    use super::*;

    fn verdict(second: InstanceView) -> Verdict {
        judge(&[id('a'), id('b')], &views([ready('a'), second]))
    }

    fn phase(second: InstanceView) -> DeployPhase {
        match verdict(second) {
            Verdict::Failed(Failed { instance, phase, cause }) => {
                assert_eq!(instance, id('b'), "{cause}");
                phase
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_must_be_ready() {
        assert_eq!(verdict(ready('b')), Verdict::Passed);
        assert_eq!(verdict(not_ready('b')), Verdict::Waiting);
        assert_eq!(judge(&[id('a'), id('c')], &views([ready('a')])), Verdict::Waiting, "not seen yet");
        assert_eq!(judge(&[], &views([])), Verdict::Passed);
    }

    #[test]
    fn one_that_will_not_be_ready_fails_them_all() {
        let exited =
            |phase, restarts| InstanceView { phase, restarts, last_exit: ended(Exit::Code(1)), ..not_ready('b') };
        let backoff = || Phase::Backoff { retry_at_boot_ms: 1 };
        assert_eq!(verdict(exited(backoff(), EXITS_MAX - 1)), Verdict::Waiting, "it may yet come up");
        assert_eq!(phase(exited(backoff(), EXITS_MAX)), DeployPhase::Start);
        assert_eq!(phase(exited(Phase::Down, 0)), DeployPhase::Start);
        assert_eq!(phase(exited(Phase::Quarantined { retry_at_boot_ms: 1 }, 0)), DeployPhase::Start);
        let unknown_program =
            InstanceView { last_exit: ended(Exit::ExecFailed { errno: libc::ENOENT }), ..exited(backoff(), 0) };
        assert_eq!(phase(unknown_program), DeployPhase::Start);
        let over = Readiness::StartDeadlineOver { since: SystemTime::UNIX_EPOCH };
        assert_eq!(phase(InstanceView { readiness: over, ..not_ready('b') }), DeployPhase::Health);
    }

    #[test]
    fn what_is_ready_passes_whatever_it_went_through() {
        let late = InstanceView { restarts: EXITS_MAX, last_exit: ended(Exit::Code(1)), ..ready('b') };
        assert_eq!(verdict(late), Verdict::Passed);
    }
}
