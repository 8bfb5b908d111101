//! What services wrote, as `agentctl logs` asks for it: which logs belong to the question, and following them while
//! instances come and go. Files are read when the reader has taken what was read before.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::api::{LogLine, LogQuery, LogRecord, LogSource, LogStream};
use agentd_protocol::ids::{InstanceId, ReleaseNumber};
use agentd_sys::causes::chain;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::mask::{KnownSecrets, Secrets, mask};
use super::worker::Rooms;
use crate::lifecycle;
use crate::store::Store;
use crate::supervisor::{Label, Line, LogFile, LogFolder, Merged, Origin, Start, Supervisor};

/// Answers that may be under way: each holds files and a connection.
const READERS_MAX: usize = 32;
/// Between two looks at logs that are followed.
const POLL: Duration = Duration::from_millis(250);
/// Looks at the logs there are between two looks for new ones.
const POLLS_PER_LISTING: u32 = 4;
/// Most lines of one answer's "last N": what does not fit into memory is asked for by time.
const LINES_MAX: u32 = 100_000;

/// The manager's own log goes by this name; a service of that name takes it.
const AGENT: &str = "agentd";
/// And the edge's by this, which is also the name of its folder.
const EDGE: &str = "edge";
/// What the program of a managed tunnel writes.
const TUNNEL: &str = "tunnel";

/// The room's way to all logs.
#[derive(Debug)]
pub(super) struct Logs {
    store: Store,
    supervisor: Supervisor,
    secrets: Arc<KnownSecrets>,
    /// The manager's own.
    agent_log: PathBuf,
    readers: Arc<Semaphore>,
    /// Ends every answer.
    cancel: CancellationToken,
}

/// An answer: [`LogReading::next`] gives it piece by piece.
#[derive(Debug)]
pub struct LogReading {
    supervisor: Supervisor,
    secrets: Arc<KnownSecrets>,
    name: String,
    query: LogQuery,
    merged: Merged,
    stage: Stage,
    /// Logs that were met, whether or not they are still read.
    known: BTreeSet<String>,
    /// Met and not told of yet.
    untold: Vec<LogSource>,
    polls: u32,
    cancel: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The last so many lines are to be collected first.
    Last(usize),
    /// What is there is given out in order.
    Forward,
    Following,
    Ended,
}

impl Logs {
    pub(super) fn new(rooms: &Rooms, agent_log: PathBuf, cancel: CancellationToken) -> Self {
        Self {
            store: rooms.store.clone(),
            supervisor: rooms.supervisor.clone(),
            secrets: Arc::clone(&rooms.secrets),
            agent_log,
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            cancel,
        }
    }

    pub(super) async fn read(&self, name: &str, query: LogQuery) -> Result<LogReading, Error> {
        let permit = Arc::clone(&self.readers).try_acquire_owned().map_err(|_| Error::TooManyReaders)?;
        let services: Vec<String> =
            self.store.services().await?.into_iter().map(|service| service.name.to_string()).collect();
        let is_service = services.iter().any(|service| service == name);
        if !is_service && ![AGENT, EDGE, TUNNEL].contains(&name) {
            let known = services.iter().map(String::as_str).chain([EDGE, AGENT, TUNNEL]).collect::<Vec<_>>().join(", ");
            return Err(Error::NoLog { name: name.to_owned(), known });
        }
        let stage = match (query.lines, query.since_unix_ms) {
            (None, _) => Stage::Forward,
            (Some(lines), _) => Stage::Last(usize::try_from(lines.min(LINES_MAX)).unwrap_or(usize::MAX)),
        };
        let mut reading = LogReading {
            supervisor: self.supervisor.clone(),
            secrets: Arc::clone(&self.secrets),
            name: name.to_owned(),
            query,
            merged: Merged::default(),
            stage,
            known: BTreeSet::new(),
            untold: Vec::new(),
            polls: 0,
            cancel: self.cancel.clone(),
            _permit: permit,
        };
        if name == AGENT && !is_service {
            reading.join(vec![(LogFile::plain(AGENT, self.agent_log.clone()), None)], reading.start()).await?;
        } else {
            let found = reading.wanted()?;
            if found.is_empty() && (reading.query.build || reading.query.instance.is_some()) {
                return Err(reading.nothing_found()?);
            }
            reading.join(found, reading.start()).await?;
        }
        Ok(reading)
    }
}

impl LogReading {
    /// The next records; `None` at the end, after [`LogRecord::End`] if it is not one of our making.
    pub async fn next(&mut self) -> Option<Vec<LogRecord>> {
        match self.advance().await {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(log = self.name, error = chain(&error), "an answer is cut off");
                None
            }
        }
    }

    async fn advance(&mut self) -> Result<Option<Vec<LogRecord>>, Error> {
        loop {
            let lines = match self.stage {
                Stage::Ended => return Ok(None),
                Stage::Last(count) => {
                    self.stage = Stage::Forward;
                    self.last(count).await?
                }
                Stage::Forward => self.blocking(Merged::batch).await?,
                Stage::Following => match self.follow().await? {
                    Some(lines) => lines,
                    None => return Ok(None),
                },
            };
            if !lines.is_empty() {
                return Ok(Some(self.records(lines)));
            }
            match self.stage {
                Stage::Forward if self.query.follow => self.stage = Stage::Following,
                Stage::Forward => return self.end().await.map(Some),
                Stage::Following if self.is_over() => return self.end().await.map(Some),
                Stage::Following | Stage::Last(_) | Stage::Ended => {}
            }
        }
    }

    /// The last lines; what has no line end is among them unless it may yet get one.
    async fn last(&mut self, count: usize) -> Result<Vec<(String, Line)>, Error> {
        let follow = self.query.follow;
        self.blocking(move |merged| {
            let mut lines = merged.last(count)?;
            if !follow {
                lines.extend(merged.finish());
            }
            Ok(lines.split_off(lines.len().saturating_sub(count)))
        })
        .await
    }

    async fn end(&mut self) -> Result<Vec<LogRecord>, Error> {
        self.stage = Stage::Ended;
        let left = self.blocking(|merged| Ok(merged.finish())).await?;
        let mut records = self.records(left);
        records.push(LogRecord::End);
        Ok(records)
    }

    /// What came since the last look; `None` when this manager ends.
    async fn follow(&mut self) -> Result<Option<Vec<(String, Line)>>, Error> {
        tokio::select! {
            () = self.cancel.cancelled() => return Ok(None),
            () = tokio::time::sleep(POLL) => {}
        }
        self.polls += 1;
        if self.polls.is_multiple_of(POLLS_PER_LISTING) && !self.query.build && !self.known.contains(AGENT) {
            let mut found = self.wanted()?;
            found.retain(|(file, _)| !self.known.contains(&file.name));
            self.join(found, Start::Beginning).await?;
        }
        let alive: BTreeSet<String> = self.supervisor.view().borrow().keys().map(InstanceId::to_string).collect();
        let lines = self.blocking(Merged::batch).await?;
        if !lines.is_empty() {
            return Ok(Some(lines));
        }
        let left = self.blocking(move |merged| Ok(merged.leave(|name| name == AGENT || alive.contains(name)))).await?;
        Ok(Some(left))
    }

    /// A build ends; instances are followed by others.
    fn is_over(&self) -> bool {
        self.query.build && self.merged.is_empty()
    }

    fn start(&self) -> Start {
        match (self.stage, self.query.since_unix_ms) {
            (Stage::Last(lines), _) => Start::Lines(lines),
            (_, Some(unix_ms)) => Start::Since(unix_ms.saturating_mul(1_000_000)),
            (_, None) => Start::Beginning,
        }
    }

    /// The logs this question is about.
    fn wanted(&self) -> Result<Vec<(LogFile, Option<ReleaseNumber>)>, Error> {
        let folders = self.supervisor.log_folders(&self.name)?;
        Ok(select(&folders, &self.query).into_iter().map(|found| (found.file.clone(), release(found))).collect())
    }

    fn nothing_found(&self) -> Result<Error, Error> {
        let service = self.name.clone();
        if self.query.build {
            return Ok(Error::NoBuildLog { service, release: self.query.release });
        }
        let folders = self.supervisor.log_folders(&self.name)?;
        let any = LogQuery::default();
        let known: Vec<&str> = select(&folders, &any).iter().map(|folder| folder.id.as_str()).collect();
        let instance = self.query.instance.clone().unwrap_or_default();
        Ok(Error::NoInstanceLog { service, instance, known: known.join(", ") })
    }

    async fn join(&mut self, files: Vec<(LogFile, Option<ReleaseNumber>)>, start: Start) -> Result<(), Error> {
        for (file, release) in &files {
            self.known.insert(file.name.clone());
            self.untold.push(LogSource { instance: file.name.clone(), release: *release });
        }
        self.blocking(move |merged| files.iter().try_for_each(|(file, _)| merged.join(file, start))).await
    }

    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Merged) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let mut merged = std::mem::take(&mut self.merged);
        let done = lifecycle::spawn_blocking("logs", move || {
            let outcome = work(&mut merged);
            (merged, outcome)
        });
        // A panic has been reported by the runtime.
        let (merged, outcome) = done.await.map_err(|_| Error::Ended)?;
        self.merged = merged;
        outcome.map_err(|source| Error::Log { name: self.name.clone(), source })
    }

    /// Lines as they are told, each log before its first one.
    fn records(&mut self, lines: Vec<(String, Line)>) -> Vec<LogRecord> {
        let since_ns = self.query.since_unix_ms.map_or(0, |unix_ms| unix_ms.saturating_mul(1_000_000));
        let lines: Vec<_> = lines.into_iter().filter(|(_, line)| line.unix_ns >= since_ns).collect();
        let spoken: BTreeSet<&str> = lines.iter().map(|(name, _)| name.as_str()).collect();
        let (told, untold) = std::mem::take(&mut self.untold)
            .into_iter()
            .partition::<Vec<_>, _>(|source| spoken.contains(source.instance.as_str()));
        self.untold = untold;
        let told = told.into_iter().map(LogRecord::Source);
        let secrets = self.secrets.current();
        told.chain(lines.into_iter().map(|(name, line)| record(name, line, &secrets))).collect()
    }
}

fn record(instance: String, line: Line, secrets: &Secrets) -> LogRecord {
    LogRecord::Line(LogLine {
        at_unix_ms: line.unix_ns / 1_000_000,
        instance,
        stream: match line.origin {
            Origin::Stdout => LogStream::Stdout,
            Origin::Stderr => LogStream::Stderr,
            Origin::Remark => LogStream::Agent,
        },
        segment: line.place.0,
        offset: line.place.1,
        text: mask(&line.text, secrets).into_owned(),
    })
}

fn release(folder: &LogFolder) -> Option<ReleaseNumber> {
    match folder.label.as_ref()? {
        Label::Instance { release } => Some(*release),
        Label::Build { key } => key.parse().ok().map(ReleaseNumber),
        Label::Edge | Label::Tunnel { .. } => None,
    }
}

/// The folders a question is about; `folders` are oldest first.
fn select<'a>(folders: &'a [LogFolder], query: &LogQuery) -> Vec<&'a LogFolder> {
    let kind = |folder: &&LogFolder| matches!(folder.label, Some(Label::Build { .. })) == query.build;
    let of_release = |folder: &&LogFolder| {
        query.release.is_none_or(|wanted| release(folder).is_some_and(|release| release.0 == wanted))
    };
    let named = |folder: &&LogFolder| {
        query.instance.as_deref().is_none_or(|first_letters| folder.id.as_str().starts_with(first_letters))
    };
    let mut found: Vec<&LogFolder> = folders.iter().filter(kind).filter(of_release).filter(named).collect();
    if query.build {
        found = found.split_off(found.len().saturating_sub(1));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::testing::id;
    use super::*;

    fn folder(letter: char, label: Label) -> LogFolder {
        let file = LogFile::plain(&letter.to_string(), PathBuf::new());
        LogFolder { id: id(letter), label: Some(label), made: SystemTime::UNIX_EPOCH, file }
    }

    #[test]
    fn a_question_is_about_instances_or_about_one_build() {
        let instance = |release| Label::Instance { release: ReleaseNumber(release) };
        let build = |key: &str| Label::Build { key: key.to_owned() };
        let mut folders = vec![
            folder('a', build("1")),
            folder('b', instance(1)),
            folder('c', build("2")),
            folder('d', instance(2)),
            folder('e', build("2")),
        ];
        folders.push(LogFolder { label: None, ..folder('f', instance(0)) });
        let names = |query: LogQuery| -> String {
            select(&folders, &query).iter().map(|folder| folder.file.name.clone()).collect()
        };
        let all = LogQuery::default();
        assert_eq!(names(all.clone()), "bdf", "what has no label is taken for an instance");
        assert_eq!(names(LogQuery { release: Some(2), ..all.clone() }), "d");
        assert_eq!(names(LogQuery { instance: Some("bb".into()), ..all.clone() }), "b");
        assert_eq!(names(LogQuery { instance: Some("bc".into()), ..all.clone() }), "");
        assert_eq!(names(LogQuery { build: true, ..all.clone() }), "e", "the newest");
        assert_eq!(names(LogQuery { build: true, release: Some(1), ..all }), "a");
    }
}
