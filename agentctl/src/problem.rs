//! Why something failed, in words: short under the table of `agentctl status`, all of it for one service.

use std::fmt::Write;

use agentd_protocol::api::{Changes, Probe, ProbeOutcome, Problem};

use crate::status::word;

/// Lines of the log in the short form, where nothing better is known.
const SHORT_LINES: usize = 5;
/// Probes in the full form; the problem has ten.
const PROBES_SHOWN: usize = 5;

/// The cause and what matters most.
pub(crate) fn short(problem: &Problem) -> String {
    let mut out = head(problem);
    essence(&mut out, problem);
    if problem.why.key_lines.is_empty() {
        let skipped = problem.log_tail.len().saturating_sub(SHORT_LINES);
        problem.log_tail[skipped..].iter().for_each(|text| line(&mut out, &format!("  | {text}")));
    }
    if let (Some(service), true) = (&problem.service, has_more(problem)) {
        line(&mut out, &format!("  more: agentctl status {service}"));
    }
    out
}

/// Everything that is known, what matters most first.
pub(crate) fn full(problem: &Problem) -> String {
    let mut out = head(problem);
    essence(&mut out, problem);
    if !problem.probes.is_empty() {
        line(&mut out, "  last probes:");
        let skipped = problem.probes.len().saturating_sub(PROBES_SHOWN);
        problem.probes[skipped..].iter().for_each(|probe| line(&mut out, &format!("    {}", answer(probe))));
    }
    if !problem.log_tail.is_empty() {
        line(&mut out, "  last lines:");
        problem.log_tail.iter().for_each(|text| line(&mut out, &format!("  | {text}")));
    }
    if let Some(changes) = &problem.why.changes {
        out.push_str(&changed(changes));
    }
    for (number, command) in problem.why.next.iter().enumerate() {
        line(&mut out, &format!("  {} {command}", if number == 0 { "next:" } else { "     " }));
    }
    out
}

fn has_more(problem: &Problem) -> bool {
    !(problem.log_tail.is_empty() && problem.probes.is_empty() && problem.why.changes.is_none())
}

fn head(problem: &Problem) -> String {
    let service = problem.service.as_ref().map_or("stack", |name| name.as_str());
    let commit = problem.commit.as_ref().map(|commit| format!(" at {}", commit.short())).unwrap_or_default();
    let release = problem.release.map(|release| format!(", release {release}")).unwrap_or_default();
    format!("\n{service}{commit}{release} ({}): {}\n", word(&problem.phase), problem.cause)
}

fn essence(out: &mut String, problem: &Problem) {
    if let Some(meaning) = &problem.why.meaning {
        line(out, &format!("  why: {meaning}"));
    }
    problem.why.key_lines.iter().for_each(|text| line(out, &format!("  > {text}")));
}

fn changed(changes: &Changes) -> String {
    let mut out = String::new();
    let Changes { since, from, to, commits, more_commits, keys, env_added, env_removed, env_changed } = changes;
    let same =
        from == to && keys.is_empty() && [env_added, env_removed, env_changed].iter().all(|names| names.is_empty());
    if same {
        line(&mut out, &format!("  nothing changed since release {since}, which was good"));
        return out;
    }
    line(&mut out, &format!("  changed since release {since}, which was good:"));
    if from != to {
        line(&mut out, &format!("    commits {}..{}", from.short(), to.short()));
        commits.iter().for_each(|commit| line(&mut out, &format!("      {commit}")));
        if *more_commits {
            line(&mut out, "      and more before these");
        }
    }
    for (what, names) in
        [("keys", keys), ("env added", env_added), ("env removed", env_removed), ("env changed", env_changed)]
    {
        if !names.is_empty() {
            line(&mut out, &format!("    {what}: {}", names.join(", ")));
        }
    }
    out
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a String takes every write");
}

fn answer(probe: &Probe) -> String {
    let outcome = match &probe.outcome {
        ProbeOutcome::Passed { status: Some(status) } => format!("passed, status {status}"),
        ProbeOutcome::Passed { status: None } => "passed".to_owned(),
        ProbeOutcome::Status { status } => format!("status {status}"),
        ProbeOutcome::Refused => "connection refused".to_owned(),
        ProbeOutcome::TimedOut => "timed out".to_owned(),
        ProbeOutcome::Failed { error } => error.clone(),
    };
    format!("{outcome} ({} ms)", probe.latency_ms)
}

#[cfg(test)]
mod tests {
    use agentd_protocol::api::{DeployPhase, Why};
    use agentd_protocol::ids::{Commit, ReleaseNumber, ServiceName};

    use super::*;

    fn commit(letter: char) -> Commit {
        Commit::new(letter.to_string().repeat(40)).unwrap()
    }

    fn problem() -> Problem {
        let changes = Changes {
            since: ReleaseNumber(3),
            from: commit('a'),
            to: commit('b'),
            commits: vec!["bbbbbbb use flask".into()],
            more_commits: true,
            keys: vec!["run".into()],
            env_added: vec!["NEW".into()],
            env_removed: Vec::new(),
            env_changed: vec!["MODE".into()],
        };
        Problem {
            service: Some(ServiceName::new("api").unwrap()),
            phase: DeployPhase::Start,
            cause: "ended 3 times before it was ready: exit code 1".into(),
            commit: Some(commit('b')),
            release: Some(ReleaseNumber(4)),
            probes: vec![Probe { at_unix_ms: 1, latency_ms: 2, outcome: ProbeOutcome::Refused }],
            log_tail: (0..7).map(|number| format!("line {number}")).collect(),
            why: Why {
                exit: None,
                meaning: Some("flask is missing".into()),
                key_lines: vec!["No module named 'flask'".into()],
                changes: Some(changes),
                next: vec!["agentctl logs api".into(), "agentctl rollback api".into()],
            },
            since_unix_ms: 0,
        }
    }

    #[test]
    fn the_full_screen_begins_with_what_matters() {
        let expected = "
api at bbbbbbb, release 4 (start): ended 3 times before it was ready: exit code 1
  why: flask is missing
  > No module named 'flask'
  last probes:
    connection refused (2 ms)
  last lines:
  | line 0
  | line 1
  | line 2
  | line 3
  | line 4
  | line 5
  | line 6
  changed since release 3, which was good:
    commits aaaaaaa..bbbbbbb
      bbbbbbb use flask
      and more before these
    keys: run
    env added: NEW
    env changed: MODE
  next: agentctl logs api
        agentctl rollback api
";
        assert_eq!(full(&problem()), expected);
    }

    #[test]
    fn the_short_form_quotes_the_log_only_where_nothing_better_is_known() {
        let told = short(&problem());
        assert!(told.contains("flask") && !told.contains("line 6") && told.ends_with("  more: agentctl status api\n"));
        let silent = Problem { why: Why::default(), ..problem() };
        let told = short(&silent);
        assert!(!told.contains("line 1") && told.contains("  | line 2\n") && told.contains("  | line 6\n"), "{told}");
        let bare = Problem { service: None, probes: Vec::new(), log_tail: Vec::new(), ..silent };
        assert_eq!(short(&bare).lines().count(), 2, "{}", short(&bare));
    }
}
