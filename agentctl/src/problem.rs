//! Why something failed, in words (pure): short under the table of `agentctl status`, all of it for one service.

use agentd_protocol::api::{Changes, Probe, ProbeOutcome, Problem};

use crate::screen::{Line, Style};
use crate::status::word;
use crate::words::{ago, harmless};

/// Lines of the log in the short form, where nothing better is known.
const SHORT_LINES: usize = 5;

/// The cause and what matters most.
pub(crate) fn short(problem: &Problem, now_unix_ms: u64) -> Vec<Line> {
    let mut lines = head(problem, now_unix_ms);
    lines.extend(essence(problem));
    if problem.why.key_lines.is_empty() {
        let skipped = problem.log_tail.len().saturating_sub(SHORT_LINES);
        lines.extend(quoted(&problem.log_tail[skipped..]));
    }
    if let (Some(service), true) = (&problem.service, has_more(problem)) {
        lines.push(Line::new(Style::Dim, format!("  more: agentctl status {service}")));
    }
    lines
}

/// Everything that is known, what matters most first.
pub(crate) fn full(problem: &Problem, now_unix_ms: u64) -> Vec<Line> {
    let mut lines = head(problem, now_unix_ms);
    lines.extend(essence(problem));
    if !problem.probes.is_empty() {
        let same = |one: &Probe, other: &Probe| one.outcome == other.outcome;
        lines.push("  last probes:".into());
        lines.extend(problem.probes.chunk_by(same).map(|alike| Line::from(format!("    {}", probes(alike)))));
    }
    if !problem.log_tail.is_empty() {
        lines.push("  last lines:".into());
        lines.extend(quoted(&problem.log_tail));
    }
    lines.extend(problem.why.changes.iter().flat_map(changed));
    for (number, command) in problem.why.next.iter().enumerate() {
        let label = if number == 0 { "next:" } else { "     " };
        lines.push(Line::from(format!("  {label} ")).with(Style::Strong, command.as_str()));
    }
    lines
}

pub(crate) fn subject(problem: &Problem) -> &str {
    problem.service.as_ref().map_or("stack", |name| name.as_str())
}

fn has_more(problem: &Problem) -> bool {
    !(problem.log_tail.is_empty() && problem.probes.is_empty() && problem.why.changes.is_none())
}

fn head(problem: &Problem, now_unix_ms: u64) -> Vec<Line> {
    let commit = problem.commit.as_ref().map(|commit| format!(" at {}", commit.short())).unwrap_or_default();
    let release = problem.release.map(|release| format!(", release {release}")).unwrap_or_default();
    let (phase, when) = (word(&problem.phase), ago(now_unix_ms, problem.since_unix_ms));
    let head = format!("{}{commit}{release} ({phase}, {when}): ", subject(problem));
    let mut causes = problem.cause.lines();
    let first = Line::new(Style::Strong, head).with(Style::Plain, harmless(causes.next().unwrap_or_default()));
    std::iter::once(first).chain(causes.map(|text| Line::from(format!("  {}", harmless(text))))).collect()
}

fn essence(problem: &Problem) -> Vec<Line> {
    let why = problem.why.meaning.iter().map(|meaning| Line::from("  why: ").with(Style::Strong, harmless(meaning)));
    let lines = problem.why.key_lines.iter().map(|text| Line::new(Style::Bad, format!("  > {}", harmless(text))));
    why.chain(lines).collect()
}

fn quoted(lines: &[String]) -> impl Iterator<Item = Line> {
    lines.iter().map(|text| Line::from(format!("  | {}", harmless(text))))
}

fn changed(changes: &Changes) -> Vec<Line> {
    let Changes { since, from, to, commits, more_commits, keys, env_added, env_removed, env_changed } = changes;
    let same =
        from == to && keys.is_empty() && [env_added, env_removed, env_changed].iter().all(|names| names.is_empty());
    if same {
        return vec![format!("  nothing changed since release {since}, which was good").into()];
    }
    let mut lines = vec![format!("  changed since release {since}, which was good:")];
    if from != to {
        lines.push(format!("    commits {}..{}", from.short(), to.short()));
        lines.extend(commits.iter().map(|commit| format!("      {}", harmless(commit))));
        if *more_commits {
            lines.push("      and more before these".to_owned());
        }
    }
    for (what, names) in
        [("keys", keys), ("env added", env_added), ("env removed", env_removed), ("env changed", env_changed)]
    {
        if !names.is_empty() {
            lines.push(format!("    {what}: {}", names.join(", ")));
        }
    }
    lines.into_iter().map(Line::from).collect()
}

/// Of probes that ended alike.
fn probes(alike: &[Probe]) -> String {
    let Some(last) = alike.last() else { return String::new() };
    match alike.len() {
        1 => format!("{} ({} ms)", outcome_of(&last.outcome), last.latency_ms),
        count => {
            format!("{}, {count} times in a row (the last took {} ms)", outcome_of(&last.outcome), last.latency_ms)
        }
    }
}

fn outcome_of(outcome: &ProbeOutcome) -> String {
    match outcome {
        ProbeOutcome::Passed { status: Some(status) } => format!("passed, status {status}"),
        ProbeOutcome::Passed { status: None } => "passed".to_owned(),
        ProbeOutcome::Status { status } => format!("status {status}"),
        ProbeOutcome::Refused => "connection refused".to_owned(),
        ProbeOutcome::TimedOut => "timed out".to_owned(),
        ProbeOutcome::Failed { error } => harmless(error),
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::api::{DeployPhase, Why};
    use agentd_protocol::ids::{Commit, ReleaseNumber, ServiceName};

    use super::*;
    use crate::screen::Screen;

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

    fn said(lines: Vec<Line>) -> String {
        lines.iter().map(|line| format!("{}\n", line.shown(Screen::Plain))).collect()
    }

    #[test]
    fn the_full_screen_begins_with_what_matters() {
        let expected = "\
api at bbbbbbb, release 4 (start, 1 min ago): ended 3 times before it was ready: exit code 1
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
        assert_eq!(said(full(&problem(), 60_000)), expected);
    }

    #[test]
    fn the_short_form_quotes_the_log_only_where_nothing_better_is_known() {
        let told = said(short(&problem(), 0));
        assert!(told.contains("flask") && !told.contains("line 6") && told.ends_with("  more: agentctl status api\n"));
        let silent = Problem { why: Why::default(), ..problem() };
        let told = said(short(&silent, 0));
        assert!(!told.contains("line 1") && told.contains("  | line 2\n") && told.contains("  | line 6\n"), "{told}");
        let bare = Problem { service: None, probes: Vec::new(), log_tail: Vec::new(), ..silent };
        assert_eq!(short(&bare, 0).len(), 1, "{}", said(short(&bare, 0)));
    }
}
