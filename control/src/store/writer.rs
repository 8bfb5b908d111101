//! The one thread that writes to a file. It takes what waits, does it in one transaction, and answers when that is on
//! disk: many callers share the price of one commit.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{Error, open};
use agentd_sqlite::Fault;

/// Callers beyond this are told to come again: so much waits only where the disk stands still.
const QUEUE_MAX: usize = 4_096;
/// Pieces of work in one transaction.
const BATCH_MAX: usize = 1_000;
/// After that long no further piece joins the transaction: those in it wait for its end.
const BATCH_TIME: Duration = Duration::from_millis(20);

/// Test switch: `STAGE:OPERATION`; the process ends there as if it were killed. Stages: `changed`, in the middle of the
/// transaction; `committed`, before anybody is answered.
const ABORT_ENV: &str = "CONTROLD_TEST_ABORT_AT";

type Lost = Arc<rusqlite::Error>;
type Answer = Box<dyn FnOnce(Option<Lost>) + Send>;
/// Told that there is no transaction to work in, or does the work in it.
type Run = Box<dyn FnOnce(Result<&Connection, Lost>) -> Ran + Send>;

struct Ran {
    /// The work is to stay.
    is_done: bool,
    /// What SQLite said, where it was that: it may have cost the others their work too.
    cause: Option<Lost>,
    answer: Answer,
}

struct Job {
    operation: &'static str,
    run: Run,
}

/// The way to one file's thread. The last clone to go closes the file.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
}

impl Writer {
    /// Blocks for as long as the disk takes.
    pub(super) fn open(path: &Path, migrations: &[&str], thread: &str) -> Result<Self, Error> {
        let connection = open::open(path, migrations)?;
        let (jobs, inbox) = mpsc::channel(QUEUE_MAX);
        let abort = std::env::var(ABORT_ENV).ok();
        // Its own thread, since it lives as long as the process: a place in the blocking pool is for work that ends.
        std::thread::Builder::new()
            .name(thread.to_owned())
            .spawn(move || serve(&connection, inbox, abort.as_deref()))
            .map_err(|source| agentd_sqlite::Error::Open { path: path.to_owned(), source })?;
        Ok(Self { jobs })
    }

    /// Returns when the thread can serve no more, after a panic.
    pub(super) async fn stopped(&self) {
        self.jobs.closed().await;
    }

    /// Runs `change`; what it did is on disk when this returns, whole or not at all.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let run = move |connection: Result<&Connection, Lost>| -> Ran {
            let outcome = connection.map_err(Fault::Lost).and_then(change).map_err(Fault::shared);
            let is_done = outcome.is_ok();
            let cause = outcome.as_ref().err().and_then(Fault::cause);
            let answer = move |lost: Option<Lost>| {
                let outcome = match lost {
                    Some(lost) => Err(Fault::Lost(lost)),
                    None => outcome,
                };
                // The caller may have given up waiting; what it asked for is done all the same.
                let _ = reply.send(outcome);
            };
            Ran { is_done, cause, answer: Box::new(answer) }
        };
        let job = Job { operation, run: Box::new(run) };
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Busy { operation },
            mpsc::error::TrySendError::Closed(_) => Error::Stopped { operation },
        })?;
        answer.await.map_err(|_| Error::Stopped { operation })?.map_err(|fault| fault.of(operation).into())
    }
}

fn serve(connection: &Connection, mut inbox: mpsc::Receiver<Job>, abort: Option<&str>) {
    while let Some(first) = inbox.blocking_recv() {
        let started = Instant::now();
        let mut batch = Batch { connection, abort, operations: Vec::new(), answers: Vec::new() };
        batch.add(first);
        let mut taken = 1;
        while taken < BATCH_MAX && started.elapsed() < BATCH_TIME {
            let Ok(job) = inbox.try_recv() else { break };
            batch.add(job);
            taken += 1;
        }
        batch.commit();
    }
}

struct Batch<'a> {
    connection: &'a Connection,
    abort: Option<&'a str>,
    operations: Vec<&'static str>,
    answers: Vec<Answer>,
}

impl Batch<'_> {
    fn add(&mut self, job: Job) {
        let Job { operation, run } = job;
        let cause = match self.begin() {
            Ok(()) => {
                let Ran { is_done, cause, answer } = run(Ok(self.connection));
                self.reached("changed", operation);
                let undone = self.end_of_work(is_done);
                self.operations.push(operation);
                self.answers.push(answer);
                cause.or(undone)
            }
            Err(error) => {
                let lost = Arc::new(error);
                (run(Err(Arc::clone(&lost))).answer)(Some(Arc::clone(&lost)));
                Some(lost)
            }
        };
        if self.connection.is_autocommit() {
            // SQLite has rolled the whole transaction back by itself, as it does when the disk is full.
            self.lose(cause.unwrap_or_else(rolled_back));
        }
    }

    fn begin(&self) -> Result<(), rusqlite::Error> {
        if self.connection.is_autocommit() {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
        }
        self.connection.execute_batch("SAVEPOINT work")
    }

    /// Failed work is undone alone. Where even that fails, the whole transaction goes, for that reason.
    fn end_of_work(&self, is_done: bool) -> Option<Lost> {
        let sql = if is_done { "RELEASE work" } else { "ROLLBACK TO work; RELEASE work" };
        if self.connection.is_autocommit() {
            return None;
        }
        let error = self.connection.execute_batch(sql).err()?;
        self.connection.execute_batch("ROLLBACK").unwrap_or_default();
        Some(Arc::new(error))
    }

    fn lose(&mut self, lost: Lost) {
        self.operations.clear();
        for answer in self.answers.drain(..) {
            answer(Some(Arc::clone(&lost)));
        }
    }

    fn commit(mut self) {
        if self.answers.is_empty() {
            return;
        }
        let lost = match self.connection.is_autocommit() {
            true => None,
            false => self.connection.execute_batch("COMMIT").err().map(Arc::new),
        };
        if lost.is_some() {
            // Already gone where SQLite has rolled back by itself.
            self.connection.execute_batch("ROLLBACK").unwrap_or_default();
        } else {
            for operation in &self.operations {
                self.reached("committed", operation);
            }
        }
        for answer in self.answers.drain(..) {
            answer(lost.clone());
        }
    }

    fn reached(&self, stage: &str, operation: &str) {
        abort_at(self.abort, stage, operation);
    }
}

/// Where SQLite has not said why.
fn rolled_back() -> Lost {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT_ROLLBACK);
    Arc::new(rusqlite::Error::SqliteFailure(code, Some("the transaction was rolled back".to_owned())))
}

fn abort_at(at: Option<&str>, stage: &str, operation: &str) {
    if at.and_then(|at| at.split_once(':')) == Some((stage, operation)) {
        std::process::abort();
    }
}

/// The same switch, for what is done to a file as a whole.
pub(super) fn reached(stage: &str, operation: &str) {
    abort_at(std::env::var(ABORT_ENV).ok().as_deref(), stage, operation);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(dir: &Path) -> Writer {
        Writer::open(&dir.join("t.db"), &["CREATE TABLE t (a INTEGER NOT NULL, b BLOB) STRICT;"], "test store").unwrap()
    }

    async fn put(writer: &Writer, number: i64, fails: bool) -> Result<(), Error> {
        let change = move |connection: &Connection| {
            connection.execute("INSERT INTO t VALUES (?1, NULL)", [number])?;
            if fails { Err(Fault::Missing) } else { Ok(()) }
        };
        writer.write("put a number", change).await
    }

    async fn sum(writer: &Writer) -> i64 {
        let query = |connection: &Connection| {
            Ok(connection.query_row("SELECT coalesce(sum(a), 0) FROM t", [], |row| row.get(0))?)
        };
        writer.write("sum up", query).await.unwrap()
    }

    #[tokio::test]
    async fn failed_work_is_undone_alone() {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(dir.path());
        let all = futures_util::future::join_all((1..=200).map(|number| put(&writer, number, number % 3 == 0))).await;
        assert_eq!(all.iter().filter(|one| one.is_err()).count(), 66);
        let expected: i64 = (1..=200).filter(|number| number % 3 != 0).sum();
        assert_eq!(sum(&writer).await, expected);
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error_and_the_thread_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(dir.path());
        put(&writer, 1, false).await.unwrap();
        let fill = |connection: &Connection| {
            connection.pragma_update_and_check(None, "max_page_count", 1, |_| Ok(()))?;
            connection.execute("INSERT INTO t VALUES (7, randomblob(4000000))", [])?;
            Ok(())
        };
        let (full, beside) = tokio::join!(writer.write("fill the disk", fill), put(&writer, 2, false));
        assert!(matches!(full, Err(Error::Sqlite(agentd_sqlite::Error::DiskFull { .. }))), "{full:?}");
        let lift = |connection: &Connection| {
            Ok(connection.pragma_update_and_check(None, "max_page_count", 1_000_000, |_| Ok(()))?)
        };
        writer.write("lift the limit", lift).await.unwrap();
        assert_eq!(sum(&writer).await, if beside.is_ok() { 3 } else { 1 }, "an error means that nothing was done");
        put(&writer, 4, false).await.unwrap();
    }

    #[tokio::test]
    async fn all_of_a_lost_transaction_are_told_what_lost_it() {
        let dir = tempfile::tempdir().unwrap();
        let writer = writer(dir.path());
        let wreck = |connection: &Connection| {
            connection.execute_batch("CREATE TABLE u (a INTEGER PRIMARY KEY); INSERT INTO u VALUES (1)")?;
            connection.execute("INSERT OR ROLLBACK INTO u VALUES (1)", [])?;
            Ok(())
        };
        // What waits while this runs is one batch.
        let slow = |connection: &Connection| {
            let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)
                       SELECT count(*) FROM n";
            Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))?)
        };
        let (_, beside, wrecked) =
            tokio::join!(writer.write("count", slow), put(&writer, 2, false), writer.write("wreck", wreck));
        for (error, operation) in [(beside, "put a number"), (wrecked, "wreck")] {
            let Err(Error::Sqlite(agentd_sqlite::Error::Query { operation: told, source })) = error else {
                panic!("{operation}: {error:?}")
            };
            assert_eq!(told, operation);
            assert_eq!(source.sqlite_error_code(), Some(rusqlite::ErrorCode::ConstraintViolation), "{operation}");
        }
        assert_eq!(sum(&writer).await, 0);
    }
}
