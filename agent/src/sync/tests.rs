//! The publisher against real files and a resolver that does as scripted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentd_protocol::ids::{Commit, Version};
use agentd_protocol::stack::{Revision, Service, Span, Stack};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::store::Store;
use crate::store::testing::{commit, name, open_store, service, stack};

/// For anything that must happen; far above what it takes on a busy machine.
const CAP: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
#[error("no route to host")]
struct NoRoute;

#[derive(Default)]
struct Script {
    /// By repository and ref; what is not in it cannot be reached.
    commits: Mutex<BTreeMap<(String, String), Commit>>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    fn set(&self, repo: &str, reference: &str, commit: Option<Commit>) {
        let mut commits = self.commits.lock().unwrap();
        let key = (repo.to_owned(), reference.to_owned());
        match commit {
            Some(commit) => commits.insert(key, commit),
            None => commits.remove(&key),
        };
    }

    fn asked(&self, repo: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == repo).count()
    }
}

#[async_trait::async_trait]
impl Resolve for Script {
    async fn resolve(&self, repo: &str, _: Option<&str>, reference: &str) -> Result<Commit, Unresolved> {
        self.asked.lock().unwrap().push(repo.to_owned());
        let commits = self.commits.lock().unwrap();
        commits.get(&(repo.to_owned(), reference.to_owned())).cloned().ok_or_else(|| Unresolved::new(&NoRoute))
    }
}

fn parse(text: &str, _: &Path) -> Result<Stack, Vec<String>> {
    serde_json::from_str(text).map_err(|error| vec![error.to_string()])
}

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
    script: Arc<Script>,
    handle: SyncHandle,
    versions: mpsc::Receiver<Version>,
    _cancel: DropGuard,
}

impl Bench {
    fn start(first: &Stack) -> Self {
        let (dir, store) = open_store();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/stack.json"), text(first)).unwrap();
        Self::start_in(dir, store, Arc::new(Script::default()))
    }

    fn start_in(dir: tempfile::TempDir, store: Store, script: Arc<Script>) -> Self {
        for label in ["api", "web"] {
            script.set(&repo(label), "main", Some(commit('a')));
        }
        Self::follow(dir, store, script)
    }

    fn follow(dir: tempfile::TempDir, store: Store, script: Arc<Script>) -> Self {
        let (sender, versions) = mpsc::channel(8);
        let cancel = CancellationToken::new();
        let config = FileConfig { path: dir.path().join("etc/stack.json"), read: parse, judge: Arc::new(|_| Ok(())) };
        let resolver: Arc<dyn Resolve> = script.clone();
        let handle = FilePublisher::start(config, resolver, store.clone(), sender, cancel.clone()).unwrap();
        Self { dir, store, script, handle, versions, _cancel: cancel.drop_guard() }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("etc/stack.json")
    }

    fn write(&self, stack: &Stack) {
        fs::write(self.file(), text(stack)).unwrap();
    }

    async fn next(&mut self) -> Version {
        match tokio::time::timeout(CAP, self.versions.recv()).await {
            Ok(version) => version.expect("the publisher runs"),
            Err(_) => panic!("no version came; status: {:?}", self.handle.status.borrow()),
        }
    }

    async fn next_stack(&mut self) -> Stack {
        let version = self.next().await;
        self.store.version(version).await.unwrap().unwrap().stack
    }

    async fn status(&mut self, what: &str, holds: impl FnMut(&SyncStatus) -> bool) -> SyncStatus {
        let seen = self.handle.status.clone();
        match tokio::time::timeout(CAP, self.handle.status.wait_for(holds)).await {
            Ok(status) => status.expect("the publisher runs").clone(),
            Err(_) => panic!("never: {what}; status: {:?}", seen.borrow()),
        }
    }
}

fn repo(label: &str) -> String {
    format!("https://git.example.com/{label}")
}

fn follows(label: &str, reference: &str) -> Service {
    Service { source: Revision::Ref(reference.to_owned()), ..service(label) }
}

fn polled(services: Vec<Service>, every: Duration) -> Stack {
    let mut whole = stack(services);
    whole.stack.poll_interval = Span(every);
    whole
}

/// Polls so rarely that only a watch can be the reason of what a test sees.
fn unpolled(services: Vec<Service>) -> Stack {
    polled(services, Duration::from_secs(3_600))
}

fn text(stack: &Stack) -> String {
    serde_json::to_string(stack).unwrap()
}

#[tokio::test]
async fn a_file_becomes_a_version_of_commits() {
    let mut bench = Bench::start(&unpolled(vec![follows("api", "main"), service("web")]));
    assert_eq!(bench.next().await, Version(1));
    let stored = bench.store.latest_version().await.unwrap().unwrap();
    assert_eq!(stored.stack.service[0].source, Revision::Commit(commit('a')));
    assert_eq!(stored.refs.get(&name("api")).map(String::as_str), Some("main"));
    let status = bench.status("version 1", |status| status.version == Some(Version(1))).await;
    assert_eq!((status.file_problem, status.unresolved, status.stale), (None, vec![], vec![]));
    assert!(status.last_read_unix_ms.is_some());
}

#[tokio::test]
async fn an_edit_is_published_at_once_however_it_is_saved() {
    let mut bench = Bench::start(&unpolled(vec![service("api")]));
    bench.next().await;
    for (replicas, by_rename) in [(2, false), (3, true), (4, false), (5, true)] {
        let edited = unpolled(vec![Service { replicas, ..service("api") }]);
        let saved = Instant::now();
        if by_rename {
            let temp = bench.dir.path().join("etc/.stack.json.swp");
            fs::write(&temp, text(&edited)).unwrap();
            fs::rename(&temp, bench.file()).unwrap();
        } else {
            bench.write(&edited);
        }
        assert_eq!(bench.next_stack().await.service[0].replicas, replicas);
        assert!(saved.elapsed() < Duration::from_secs(1), "took {:?}", saved.elapsed());
    }
}

#[tokio::test]
async fn a_deleted_file_changes_nothing_until_it_is_back() {
    let mut bench = Bench::start(&unpolled(vec![service("api")]));
    bench.next().await;
    fs::remove_file(bench.file()).unwrap();
    let status = bench.status("the file is missed", |status| status.file_problem.is_some()).await;
    assert!(status.file_problem.unwrap().contains("there is no such file"));
    assert_eq!(status.version, Some(Version(1)));
    bench.write(&unpolled(vec![service("api")]));
    bench.status("all is well again", |status| status.file_problem.is_none()).await;
    assert!(bench.versions.try_recv().is_err(), "the same content is no new version");
    bench.write(&unpolled(vec![service("web")]));
    assert_eq!(bench.next().await, Version(2));
}

#[tokio::test]
async fn a_half_written_file_is_not_reported_when_the_rest_follows() {
    let mut bench = Bench::start(&unpolled(vec![service("api")]));
    bench.next().await;
    bench.handle.status.mark_unchanged();
    let whole = text(&unpolled(vec![service("web")]));
    fs::write(bench.file(), &whole[..whole.len() / 2]).unwrap();
    fs::write(bench.file(), &whole).unwrap();
    assert_eq!(bench.next().await, Version(2));
    let status = bench.status("version 2", |status| status.version == Some(Version(2))).await;
    assert_eq!(status.file_problem, None);

    fs::write(bench.file(), &whole[..whole.len() / 2]).unwrap();
    bench.status("what stays broken is reported", |status| status.file_problem.is_some()).await;
    bench.write(&unpolled(vec![service("api")]));
    assert_eq!(bench.next().await, Version(3));
}

#[tokio::test]
async fn a_moved_branch_is_seen_at_the_next_poll() {
    let mut bench = Bench::start(&polled(vec![follows("api", "main")], Duration::from_millis(100)));
    bench.next().await;
    bench.script.set(&repo("api"), "main", Some(commit('b')));
    assert_eq!(bench.next_stack().await.service[0].source, Revision::Commit(commit('b')));
}

#[tokio::test]
async fn a_lost_network_keeps_the_last_commit_and_says_so() {
    let mut bench = Bench::start(&polled(vec![follows("api", "main")], Duration::from_millis(100)));
    bench.next().await;
    bench.script.set(&repo("api"), "main", None);
    let status = bench.status("stale", |status| !status.stale.is_empty()).await;
    assert_eq!(status.stale, [(name("api"), "stays at its last commit: no route to host".to_owned())]);
    bench.write(&polled(vec![Service { replicas: 2, ..follows("api", "main") }], Duration::from_millis(100)));
    let edited = bench.next_stack().await;
    assert_eq!((edited.service[0].replicas, &edited.service[0].source), (2, &Revision::Commit(commit('a'))));
    bench.script.set(&repo("api"), "main", Some(commit('a')));
    bench.status("fresh again", |status| status.stale.is_empty()).await;
}

#[tokio::test]
async fn a_new_service_that_cannot_be_resolved_waits_and_is_tried_again() {
    let mut bench = Bench::start(&polled(vec![follows("api", "v2"), service("web")], Duration::from_millis(100)));
    let first = bench.next_stack().await;
    assert_eq!(first.service.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["web"]);
    bench.status("named", |status| status.unresolved.len() == 1).await;
    bench.script.set(&repo("api"), "v2", Some(commit('c')));
    assert_eq!(bench.next_stack().await.service.len(), 2);
    bench.status("resolved", |status| status.unresolved.is_empty()).await;
}

#[tokio::test]
async fn without_network_a_restart_keeps_what_was_published() {
    let mut bench = Bench::start(&unpolled(vec![follows("api", "main")]));
    bench.next().await;
    let Bench { dir, store, script, handle, _cancel, .. } = bench;
    drop((handle, _cancel));
    script.set(&repo("api"), "main", None);
    let mut bench = Bench::follow(dir, store, script);
    let status = bench.status("stale", |status| !status.stale.is_empty()).await;
    assert_eq!(status.version, Some(Version(1)));
    assert!(bench.versions.try_recv().is_err(), "nothing is new");
}

#[tokio::test]
async fn poke_asks_at_once() {
    let mut bench = Bench::start(&unpolled(vec![follows("api", "main")]));
    bench.next().await;
    bench.script.set(&repo("api"), "main", Some(commit('b')));
    bench.handle.poke();
    assert_eq!(bench.next().await, Version(2));
    assert_eq!(bench.script.asked(&repo("api")), 2);
}

#[tokio::test]
async fn a_commit_in_a_local_repository_is_seen_at_once() {
    let (dir, store) = open_store();
    let heads = dir.path().join("shop/.git/refs/heads");
    fs::create_dir_all(&heads).unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    let local = format!("file://{}", dir.path().join("shop").display());
    let whole = unpolled(vec![Service { repo: local.clone(), ..follows("api", "main") }]);
    fs::write(dir.path().join("etc/stack.json"), text(&whole)).unwrap();
    let script = Arc::new(Script::default());
    script.set(&local, "main", Some(commit('a')));
    let mut bench = Bench::start_in(dir, store, script);
    bench.next().await;
    bench.script.set(&local, "main", Some(commit('b')));
    let committed = Instant::now();
    fs::write(heads.join("main.lock"), "b").unwrap();
    fs::rename(heads.join("main.lock"), heads.join("main")).unwrap();
    assert_eq!(bench.next_stack().await.service[0].source, Revision::Commit(commit('b')));
    assert!(committed.elapsed() < Duration::from_secs(1), "took {:?}", committed.elapsed());
}

#[tokio::test]
async fn a_path_that_is_no_file_is_refused() {
    let (_dir, store) = open_store();
    let config = FileConfig { path: PathBuf::from("/"), read: parse, judge: Arc::new(|_| Ok(())) };
    let (sender, _versions) = mpsc::channel(1);
    let started = FilePublisher::start(config, Arc::new(Script::default()), store, sender, CancellationToken::new());
    assert!(matches!(started, Err(Error::NoFile { .. })));
}
