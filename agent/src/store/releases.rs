//! Releases: what was built, from what, with which entry and env.

use std::collections::BTreeMap;

use agentd_protocol::api::Problem;
use agentd_protocol::ids::{Commit, ReleaseNumber, ServiceName};
use agentd_protocol::stack::Service;
use rusqlite::{Connection, Row, params};

use super::convert::{now_unix_ms, plain};
use super::versions::{drop_unused_env, put_env};
use agentd_protocol::published::{join_service, split_service};
use agentd_sqlite::{Fault, StoredValue, parsed, rows, signed, some_row, unsigned, unsigned_or_null};

use super::{Digest, Error, Store};

/// Rows of releases that failed or are gone from disk, per service: history to look at, nothing more.
const PAST_RELEASES_KEPT: u32 = 50;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReleaseState {
    /// Also what a manager finds that died while building.
    Building,
    Built,
    Failed(Box<Problem>),
    /// Its folder was removed to make room.
    Gone,
}

/// A release that starts to build. No `Debug`, the entry holds env values.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "the entry holds env values")]
pub struct NewRelease {
    pub service: ServiceName,
    pub number: ReleaseNumber,
    pub commit: Commit,
    /// Git object name of the built tree.
    pub tree: String,
    /// Name of the folder under the service's `releases`.
    pub dir_name: String,
    /// Digest of what decides the build's output: tree, build command, kind.
    pub build_digest: Digest,
    /// Digest of what decides the running program: the build, run command, env, probes, limits.
    pub program_digest: Digest,
    /// The service as published; of its env the names are stored.
    pub entry: Service,
    /// All of the user's variables, the entry's included; stored apart.
    pub env: BTreeMap<String, String>,
    /// `Built` when an older release's output is used again.
    pub state: ReleaseState,
}

#[derive(Clone, PartialEq, Eq)]
pub struct StoredRelease {
    pub service: ServiceName,
    pub number: ReleaseNumber,
    pub commit: Commit,
    pub tree: String,
    pub dir_name: String,
    pub build_digest: Digest,
    pub program_digest: Digest,
    /// With the env values joined back.
    pub entry: Service,
    pub env_sha256: Digest,
    pub state: ReleaseState,
    pub created_unix_ms: u64,
    pub built_unix_ms: Option<u64>,
}

// By hand: the entry holds env values.
impl std::fmt::Debug for StoredRelease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredRelease")
            .field("service", &self.service)
            .field("number", &self.number)
            .field("commit", &self.commit)
            .field("dir_name", &self.dir_name)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl StoredRelease {
    pub fn is_built(&self) -> bool {
        self.state == ReleaseState::Built
    }
}

const SELECT: &str = "SELECT releases.*, env.json AS env \
                      FROM releases JOIN env_objects env ON env.sha256 = env_sha256";

impl Store {
    /// A number never given before to this service, also when it was pruned in between.
    pub async fn next_release(&self, service: &ServiceName) -> Result<ReleaseNumber, Error> {
        let service = service.clone();
        self.write("number a release", move |transaction| {
            let next: i64 = transaction.query_row(
                "INSERT INTO release_numbers (service, last) VALUES (?1, 1) \
                 ON CONFLICT (service) DO UPDATE SET last = last + 1 RETURNING last",
                [service.as_str()],
                |row| row.get(0),
            )?;
            Ok(ReleaseNumber(u64::try_from(next)?))
        })
        .await
    }

    /// Its number comes from [`Store::next_release`].
    pub async fn put_release(&self, release: NewRelease) -> Result<StoredRelease, Error> {
        let entry = split_service(&release.entry).document;
        let env = serde_json::to_string(&release.env).expect("a map of texts is JSON");
        self.write("store a release", move |transaction| {
            let now = now_unix_ms();
            transaction.execute(
                "INSERT INTO services (name, first_seen) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                params![release.service.as_str(), now],
            )?;
            let env_sha256 = put_env(transaction, &env)?;
            let (word, failure) = state_columns(&release.state);
            let built_at = (release.state == ReleaseState::Built).then_some(now);
            transaction.execute(
                "INSERT INTO releases (service, number, commit_id, tree, dir_name, build_digest, program_digest, \
                 entry, env_sha256, state, failure, created_at, built_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
                params![
                    release.service.as_str(),
                    signed(release.number.0),
                    release.commit.as_str(),
                    release.tree,
                    release.dir_name,
                    release.build_digest.to_string(),
                    release.program_digest.to_string(),
                    entry,
                    env_sha256.to_string(),
                    word,
                    failure,
                    now,
                    built_at
                ],
            )?;
            find(transaction, &release.service, release.number)?.ok_or(Fault::Missing)
        })
        .await
    }

    pub async fn set_release_state(
        &self,
        service: &ServiceName,
        release: ReleaseNumber,
        state: ReleaseState,
    ) -> Result<(), Error> {
        let service = service.clone();
        self.write("record the state of a release", move |transaction| {
            let (word, failure) = state_columns(&state);
            let built_at = (state == ReleaseState::Built).then(now_unix_ms);
            some_row(transaction.execute(
                "UPDATE releases SET state = ?3, failure = ?4, built_at = coalesce(?5, built_at) \
                 WHERE service = ?1 AND number = ?2",
                params![service.as_str(), signed(release.0), word, failure, built_at],
            )?)?;
            let dropped = transaction.execute(
                "DELETE FROM releases WHERE service = ?1 AND state IN ('failed', 'gone') AND number NOT IN (\
                 SELECT number FROM releases WHERE service = ?1 AND state IN ('failed', 'gone') \
                 ORDER BY number DESC LIMIT ?2)",
                params![service.as_str(), PAST_RELEASES_KEPT],
            )?;
            if dropped > 0 { drop_unused_env(transaction) } else { Ok(()) }
        })
        .await
    }

    /// The same program under another entry (its route, its drain): number, files and env stay.
    pub async fn update_release(
        &self,
        service: &ServiceName,
        release: ReleaseNumber,
        entry: &Service,
        commit: &Commit,
    ) -> Result<(), Error> {
        let (service, commit, entry) = (service.clone(), commit.clone(), split_service(entry).document);
        self.write("change the entry of a release", move |transaction| {
            some_row(transaction.execute(
                "UPDATE releases SET entry = ?3, commit_id = ?4 WHERE service = ?1 AND number = ?2",
                params![service.as_str(), signed(release.0), entry, commit.as_str()],
            )?)
        })
        .await
    }

    /// The release that serves, or served last.
    pub async fn active_release(&self, service: &ServiceName) -> Result<Option<StoredRelease>, Error> {
        let service = service.clone();
        self.read("read the active release", move |connection| {
            let query = format!(
                "{SELECT} JOIN services ON services.name = service AND active_release = number WHERE service = ?1"
            );
            Ok(rows(connection, &query, [service.as_str()], read)?.pop())
        })
        .await
    }

    /// Newest first.
    pub async fn releases(&self, service: &ServiceName) -> Result<Vec<StoredRelease>, Error> {
        let service = service.clone();
        self.read("read releases", move |connection| {
            let query = format!("{SELECT} WHERE service = ?1 ORDER BY number DESC");
            rows(connection, &query, [service.as_str()], read)
        })
        .await
    }

    /// The newest release whose output is on disk and equals what such a build would make.
    pub async fn find_built(
        &self,
        service: &ServiceName,
        build_digest: &Digest,
    ) -> Result<Option<StoredRelease>, Error> {
        let (service, build_digest) = (service.clone(), *build_digest);
        self.read("look for a build", move |connection| {
            let query = format!(
                "{SELECT} WHERE service = ?1 AND build_digest = ?2 AND state = 'built' ORDER BY number DESC LIMIT 1"
            );
            let params = params![service.as_str(), build_digest.to_string()];
            Ok(rows(connection, &query, params, read)?.pop())
        })
        .await
    }
}

fn find(connection: &Connection, service: &ServiceName, number: ReleaseNumber) -> Result<Option<StoredRelease>, Fault> {
    let query = format!("{SELECT} WHERE service = ?1 AND number = ?2");
    Ok(rows(connection, &query, params![service.as_str(), signed(number.0)], read)?.pop())
}

fn state_columns(state: &ReleaseState) -> (&'static str, Option<String>) {
    match state {
        ReleaseState::Building => ("building", None),
        ReleaseState::Built => ("built", None),
        ReleaseState::Failed(problem) => ("failed", Some(serde_json::to_string(problem).expect("a problem is JSON"))),
        ReleaseState::Gone => ("gone", None),
    }
}

fn state(word: &str, failure: Option<&str>) -> Result<ReleaseState, Fault> {
    match (word, failure) {
        ("building", None) => Ok(ReleaseState::Building),
        ("built", None) => Ok(ReleaseState::Built),
        ("failed", Some(problem)) => Ok(ReleaseState::Failed(serde_json::from_str(problem)?)),
        ("gone", None) => Ok(ReleaseState::Gone),
        _ => Err(Fault::Stored(StoredValue::Word)),
    }
}

fn read(row: &Row<'_>) -> Result<StoredRelease, Fault> {
    let (entry, env): (String, String) = (plain(row, "entry")?, plain(row, "env")?);
    let (word, failure): (String, Option<String>) = (plain(row, "state")?, plain(row, "failure")?);
    Ok(StoredRelease {
        service: parsed(row, "service")?,
        number: ReleaseNumber(unsigned(row, "number")?),
        commit: parsed(row, "commit_id")?,
        tree: plain(row, "tree")?,
        dir_name: plain(row, "dir_name")?,
        build_digest: parsed(row, "build_digest")?,
        program_digest: parsed(row, "program_digest")?,
        entry: join_service(&entry, &env)?,
        env_sha256: parsed(row, "env_sha256")?,
        state: state(&word, failure.as_deref())?,
        created_unix_ms: unsigned(row, "created_at")?,
        built_unix_ms: unsigned_or_null(row, "built_at")?,
    })
}
