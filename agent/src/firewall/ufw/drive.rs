//! Runs ufw, and believes its files, not its exit code: it says 0 to "Skipping inserting existing rule" too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::journal::{Entry, FileHash, Journal, Snapshot, Undone, snapshot};
use super::plan::{self, Allow, Families, Place, Step, Wanted};
use super::tuples::Tuple;
use super::{Error, command};

/// ufw waits for its lock and for xtables'; one rule takes 0.2 s.
const LIMITS: command::Limits = command::Limits { time: Duration::from_secs(30), bytes: 1 << 20 };
/// Rules we ask of UFW at most; each takes 0.2 s.
const ALLOWS_MAX: usize = 128;

/// The program and the files it keeps.
#[derive(Debug, Clone)]
pub struct Ufw {
    pub program: PathBuf,
    /// user.rules and user6.rules.
    pub rules: [PathBuf; 2],
    /// /etc/default/ufw, for `IPV6=`.
    pub defaults: PathBuf,
}

/// What UFW does now, whatever it is to do after the next boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Absent,
    Inactive,
    Active,
}

/// When its files were last written, and how long they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stamp(Vec<Option<(SystemTime, u64)>>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ensured {
    /// UFW drops nothing: nothing was changed.
    NotActive,
    /// Everything wanted passes.
    Allowed { added: Vec<Allow>, pre_existing: Vec<Allow> },
}

struct Steps {
    allows: BTreeSet<Allow>,
    /// What they were judged by.
    files: Vec<Snapshot>,
    steps: Vec<Step>,
}

impl Ufw {
    pub fn system() -> Self {
        Self {
            program: "/usr/sbin/ufw".into(),
            rules: ["/etc/ufw/user.rules".into(), "/etc/ufw/user6.rules".into()],
            defaults: "/etc/default/ufw".into(),
        }
    }

    /// By `ufw status`, which looks for its chain in the kernel.
    pub fn state(&self) -> Result<State, Error> {
        if !self.program.exists() {
            return Ok(State::Absent);
        }
        let output = command::run(&self.program, &["status".to_owned()], LIMITS)?;
        match output.stdout.lines().next() {
            Some("Status: active") => Ok(State::Active),
            Some("Status: inactive") => Ok(State::Inactive),
            Some(_) | None => Err(Error::Status { stderr: last_line(&output.stderr) }),
        }
    }

    /// Whether `ensure` could; changes nothing.
    pub fn check(&self, wanted: &Wanted) -> Result<(), Error> {
        if self.state()? == State::Active { self.steps(wanted).map(drop) } else { Ok(()) }
    }

    /// Has an active UFW let in what is wanted, and nothing of ours that is no longer. Conflicts are found before anything
    /// is changed. What was done is in the journal; `undo` takes it back.
    pub fn ensure(&self, wanted: &Wanted, journal_path: &Path) -> Result<Ensured, Error> {
        if self.state()? != State::Active {
            return Ok(Ensured::NotActive);
        }
        let Steps { allows, files, steps } = self.steps(wanted)?;
        let found = Journal::read(journal_path)?;
        let mut journal = found.unwrap_or(Journal { start: files, entries: Vec::new() });
        self.retire(&mut journal, &allows, journal_path)?;
        let (mut added, mut pre_existing) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Add(allow, place) => {
                    self.add(&mut journal, allow, place, journal_path)?;
                    added.push(allow);
                }
                Step::Ours(allow) => self.adopt(&mut journal, allow, journal_path)?,
                Step::PreExisting(allow) => {
                    self.note(&mut journal, allow, journal_path)?;
                    pre_existing.push(allow);
                }
                Step::Conflict(..) => unreachable!("refused above"),
            }
        }
        Ok(Ensured::Allowed { added, pre_existing })
    }

    /// Of what is wanted, what an active UFW has no rule for; changes nothing. `None`: UFW drops nothing.
    pub fn missing(&self, wanted: &Wanted) -> Result<Option<BTreeSet<Allow>>, Error> {
        if self.state()? != State::Active {
            return Ok(None);
        }
        let added = |step: &Step| match step {
            Step::Add(allow, _) => Some(*allow),
            Step::Ours(_) | Step::PreExisting(_) | Step::Conflict(..) => None,
        };
        Ok(Some(self.steps(wanted)?.steps.iter().filter_map(added).collect()))
    }

    /// Differs once somebody enabled, reset or changed it; costs no run of ufw.
    pub fn stamp(&self) -> Stamp {
        let switch = self.rules[0].with_file_name("ufw.conf");
        let paths = self.rules.iter().chain([&self.defaults, &switch]);
        let seen = |path: &PathBuf| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.modified().ok()?, found.len()))
        };
        Stamp(paths.map(seen).collect())
    }

    /// What is to be done for these allows; a conflict is none of the steps.
    fn steps(&self, wanted: &Wanted) -> Result<Steps, Error> {
        let allows = wanted.allows(self.families());
        if allows.len() > ALLOWS_MAX {
            return Err(Error::TooMany { count: allows.len(), limit: ALLOWS_MAX });
        }
        let (files, tuples) = self.look()?;
        let steps = plan::plan(&allows, &tuples);
        match steps.iter().find(|step| matches!(step, Step::Conflict(..))) {
            Some(&Step::Conflict(allow, action)) => Err(Error::Conflict { allow, action }),
            Some(_) | None => Ok(Steps { allows, files, steps }),
        }
    }

    /// Takes back what the journal says we did, last first, and says what the files are like beside what they were. To be
    /// repeated until it succeeds; `None` when there is nothing to take back.
    pub fn undo(&self, journal_path: &Path) -> Result<Option<Undone>, Error> {
        let Some(journal) = Journal::read(journal_path)? else { return Ok(None) };
        let mut undone = Undone::default();
        for entry in journal.entries.iter().rev().filter(|entry| !entry.pre_existing) {
            match self.take_back(entry)? {
                TakenBack::Removed => undone.removed.push(entry.allow),
                TakenBack::NotOurs => undone.left.push(entry.allow),
                TakenBack::Gone => {}
            }
        }
        undone.files = journal.compare(&self.look()?.0);
        Journal::remove(journal_path)?;
        Ok(Some(undone))
    }

    fn add(&self, journal: &mut Journal, allow: Allow, place: Place, journal_path: &Path) -> Result<(), Error> {
        let argv = plan::arguments(allow, place);
        journal.entries.retain(|entry| entry.allow != allow);
        journal.entries.push(self.entry(allow, argv.clone(), self.hashes()?));
        journal.write(journal_path)?;
        let output = command::run(&self.program, &argv, LIMITS)?;
        let (files, tuples) = self.look()?;
        if !tuples.iter().any(|tuple| plan::is_ours(tuple, allow)) {
            let said = self::said(&output);
            return Err(Error::NotTaken { allow, order: argv.join(" "), said });
        }
        if let Some(entry) = journal.entry(allow) {
            entry.after = Some(files.into_iter().map(|snapshot| snapshot.file).collect());
        }
        journal.write(journal_path)
    }

    /// A rule with our comment that is there already: of a life of ours whose journal may be lost.
    fn adopt(&self, journal: &mut Journal, allow: Allow, journal_path: &Path) -> Result<(), Error> {
        if journal.entry(allow).is_some_and(|entry| !entry.pre_existing) {
            return Ok(());
        }
        let now = self.hashes()?;
        journal.entries.retain(|entry| entry.allow != allow);
        journal
            .entries
            .push(Entry { after: Some(now.clone()), ..self.entry(allow, plan::arguments(allow, Place::Last), now) });
        journal.write(journal_path)
    }

    /// A rule of the owner's that does what we want. One that was ours and got another comment is theirs from then on.
    fn note(&self, journal: &mut Journal, allow: Allow, journal_path: &Path) -> Result<(), Error> {
        if journal.entry(allow).is_some_and(|entry| entry.pre_existing) {
            return Ok(());
        }
        let now = self.hashes()?;
        journal.entries.retain(|entry| entry.allow != allow);
        journal.entries.push(Entry {
            pre_existing: true,
            inverse: Vec::new(),
            after: Some(now.clone()),
            ..self.entry(allow, Vec::new(), now)
        });
        journal.write(journal_path)
    }

    fn entry(&self, allow: Allow, argv: Vec<String>, before: Vec<FileHash>) -> Entry {
        let tool = self.program.clone();
        Entry { allow, tool, argv, inverse: plan::inverse(allow), pre_existing: false, before, after: None }
    }

    /// Takes back what is no longer wanted.
    fn retire(&self, journal: &mut Journal, wanted: &BTreeSet<Allow>, journal_path: &Path) -> Result<(), Error> {
        let (kept, retired): (Vec<Entry>, Vec<Entry>) =
            journal.entries.drain(..).partition(|entry| wanted.contains(&entry.allow));
        for entry in retired.iter().rev().filter(|entry| !entry.pre_existing) {
            self.take_back(entry)?;
        }
        journal.entries = kept;
        if retired.is_empty() { Ok(()) } else { journal.write(journal_path) }
    }

    fn take_back(&self, entry: &Entry) -> Result<TakenBack, Error> {
        let allow = entry.allow;
        let tuples = self.look()?.1;
        if !tuples.iter().any(|tuple| plan::is_ours(tuple, allow)) {
            let theirs = tuples.iter().any(|tuple| plan::same_key(tuple, allow));
            return Ok(if theirs { TakenBack::NotOurs } else { TakenBack::Gone });
        }
        let output = command::run(&self.program, &entry.inverse, LIMITS)?;
        if self.look()?.1.iter().any(|tuple| plan::is_ours(tuple, allow)) {
            let said = self::said(&output);
            return Err(Error::NotGivenUp { allow, order: entry.inverse.join(" "), said });
        }
        Ok(TakenBack::Removed)
    }

    fn families(&self) -> Families {
        // Without the file UFW's own default holds, which is no.
        match std::fs::read_to_string(&self.defaults) {
            Ok(text) if setting(&text, "IPV6").is_some_and(|value| value.eq_ignore_ascii_case("yes")) => Families::Both,
            Ok(_) | Err(_) => Families::V4,
        }
    }

    fn look(&self) -> Result<(Vec<Snapshot>, Vec<Tuple>), Error> {
        let (mut files, mut tuples) = (Vec::new(), Vec::new());
        for path in &self.rules {
            let (file, found) = snapshot(path)?;
            files.push(file);
            tuples.extend(found);
        }
        Ok((files, tuples))
    }

    fn hashes(&self) -> Result<Vec<FileHash>, Error> {
        Ok(self.look()?.0.into_iter().map(|snapshot| snapshot.file).collect())
    }
}

enum TakenBack {
    Removed,
    /// The owner has a rule of their own there now.
    NotOurs,
    Gone,
}

/// A value of a file of shell assignments; the last one holds.
pub(in crate::firewall) fn setting<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut values = text.lines().filter_map(|line| line.trim().strip_prefix(name)?.trim_start().strip_prefix('='));
    values.next_back().map(|value| value.trim().trim_matches(['"', '\'']))
}

fn said(output: &command::Output) -> String {
    let text = last_line(&format!("{}\n{}", output.stdout, output.stderr));
    format!("{text} ({})", output.status)
}

fn last_line(text: &str) -> String {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned()
}

#[cfg(test)]
#[path = "drive_tests.rs"]
mod tests;
