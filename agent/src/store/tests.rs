//! The store through its own methods, against a real file.

use std::collections::BTreeMap;

use agentd_protocol::api::{DeployPhase, What};
use agentd_protocol::control::BOOT_MAX;
use agentd_protocol::ids::{InstanceId, ReleaseNumber, Version};
use agentd_protocol::stack::{Revision, Stack};
use proptest::prelude::*;
use rusqlite::Connection;

use super::testing::{commit, name, open_store, problem, service, stack};
use super::*;

fn with_env(mut stack: Stack, value: &str) -> Stack {
    stack.service[0].env.insert("SECRET".into(), value.into());
    stack
}

/// Of the entry and of its env_file.
fn user_env() -> BTreeMap<String, String> {
    [("SECRET", "hunter2"), ("FROM_FILE", "x")].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn release(number: ReleaseNumber, build: &str) -> NewRelease {
    let mut entry = service("api");
    entry.env.insert("SECRET".into(), "hunter2".into());
    NewRelease {
        service: name("api"),
        number,
        commit: commit('1'),
        tree: "2".repeat(40),
        dir_name: format!("{number}-1111111"),
        build_digest: Digest::of(build.as_bytes()),
        program_digest: Digest::of(b"program"),
        env: user_env(),
        state: ReleaseState::Building,
        entry,
    }
}

async fn new_release(store: &Store, build: &str) -> ReleaseNumber {
    let number = store.next_release(&name("api")).await.unwrap();
    let stored = store.put_release(release(number, build)).await.unwrap();
    assert_eq!((stored.number, stored.state), (number, ReleaseState::Building));
    number
}

#[tokio::test]
async fn versions_grow_only_with_their_content() {
    let (_dir, store) = open_store();
    assert_eq!(store.latest_version().await.unwrap(), None);
    let one = with_env(stack(vec![service("api"), service("web")]), "a");
    let two = with_env(one.clone(), "b");
    let refs = Refs::from([(name("api"), "main".to_owned())]);
    assert_eq!(store.put_version(&one, &refs).await.unwrap(), Put::New(Version(1)));
    assert_eq!(store.put_version(&one, &refs).await.unwrap(), Put::Unchanged(Version(1)));
    assert_eq!(store.put_version(&two, &refs).await.unwrap(), Put::New(Version(2)));
    assert_eq!(store.put_version(&one, &refs).await.unwrap(), Put::New(Version(3)), "back is a new version too");
    let found = store.version(Version(2)).await.unwrap().unwrap();
    assert_eq!((found.stack, found.refs, found.applied), (two, refs, false));
    assert_eq!(store.latest_version().await.unwrap().unwrap().version, Version(3));
    assert_eq!(store.version(Version(9)).await.unwrap(), None);
}

#[tokio::test]
async fn applied_is_remembered_apart_from_newest() {
    let (_dir, store) = open_store();
    let one = stack(vec![service("api")]);
    store.put_version(&one, &Refs::new()).await.unwrap();
    store.put_version(&with_env(one, "b"), &Refs::new()).await.unwrap();
    assert_eq!(store.last_applied().await.unwrap(), None);
    store.mark_applied(Version(1)).await.unwrap();
    let applied = store.last_applied().await.unwrap().unwrap();
    assert_eq!(applied.version, Version(1));
    assert!(applied.applied);
    assert!(matches!(store.mark_applied(Version(7)).await, Err(Error::Sqlite(agentd_sqlite::Error::Missing { .. }))));
}

#[tokio::test]
async fn unchanged_content_takes_over_the_new_refs() {
    let (_dir, store) = open_store();
    let one = stack(vec![service("api")]);
    store.put_version(&one, &Refs::new()).await.unwrap();
    let refs = Refs::from([(name("api"), "v1".to_owned())]);
    assert_eq!(store.put_version(&one, &refs).await.unwrap(), Put::Unchanged(Version(1)));
    assert_eq!(store.latest_version().await.unwrap().unwrap().refs, refs);
}

#[tokio::test]
async fn old_versions_go_but_the_applied_one_stays() {
    let (dir, store) = open_store();
    for n in 0..VERSIONS_KEPT + 3 {
        store.put_version(&with_env(stack(vec![service("api")]), &n.to_string()), &Refs::new()).await.unwrap();
        if n == 0 {
            store.mark_applied(Version(1)).await.unwrap();
        }
    }
    assert!(store.version(Version(1)).await.unwrap().is_some());
    assert!(store.version(Version(2)).await.unwrap().is_none());
    assert!(store.version(Version(4)).await.unwrap().is_some());
    let raw = Connection::open(dir.path().join("agentd.db")).unwrap();
    let count =
        |table: &str| -> u32 { raw.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap() };
    assert_eq!((count("versions"), count("env_objects")), (VERSIONS_KEPT + 1, VERSIONS_KEPT + 1));
}

#[tokio::test]
async fn a_returned_version_is_on_disk() {
    let (dir, store) = open_store();
    let path = dir.path().join("agentd.db");
    let whole = with_env(stack(vec![service("api")]), "a");
    store.put_version(&whole, &Refs::new()).await.unwrap();
    // What a kill leaves: the files as they are now, without the closing checkpoint.
    let copy = tempfile::tempdir().unwrap();
    for file in ["agentd.db", "agentd.db-wal"] {
        std::fs::copy(dir.path().join(file), copy.path().join(file)).unwrap();
    }
    let after_kill = Store::open(&copy.path().join("agentd.db")).unwrap();
    assert_eq!(after_kill.latest_version().await.unwrap().unwrap().stack, whole);
    drop(store);
    let again = Store::open(&path).unwrap();
    assert_eq!(again.latest_version().await.unwrap().unwrap().stack, whole);
}

#[tokio::test]
async fn env_values_stand_in_their_table_alone() {
    let (dir, store) = open_store();
    store.put_version(&with_env(stack(vec![service("api")]), "hunter2"), &Refs::new()).await.unwrap();
    new_release(&store, "a").await;
    let raw = Connection::open(dir.path().join("agentd.db")).unwrap();
    let texts = |query: &str| -> Vec<String> {
        raw.prepare(query).unwrap().query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    for text in texts("SELECT document FROM versions UNION ALL SELECT entry FROM releases") {
        assert!(text.contains("SECRET") && !text.contains("hunter2"), "{text}");
    }
    assert_eq!(texts("SELECT json FROM env_objects WHERE json LIKE '%hunter2%'").len(), 2);
    assert!(!format!("{:?}", store.latest_version().await.unwrap()).contains("hunter2"));
    assert!(!format!("{:?}", store.releases(&name("api")).await.unwrap()).contains("hunter2"));
}

#[tokio::test]
async fn releases_go_through_their_states() {
    let (_dir, store) = open_store();
    let api = name("api");
    let one = new_release(&store, "same").await;
    let two = new_release(&store, "same").await;
    assert_eq!((one, two), (ReleaseNumber(1), ReleaseNumber(2)));
    assert_eq!(store.find_built(&api, &Digest::of(b"same")).await.unwrap(), None, "building is not built");
    store.set_release_state(&api, one, ReleaseState::Built).await.unwrap();
    let failed = ReleaseState::Failed(Box::new(problem()));
    store.set_release_state(&api, two, failed.clone()).await.unwrap();
    let found = store.releases(&api).await.unwrap();
    assert_eq!(found.iter().map(|r| r.number).collect::<Vec<_>>(), [two, one]);
    assert_eq!((&found[0].state, found[0].built_unix_ms), (&failed, None));
    assert!(found[1].built_unix_ms.is_some());
    assert_eq!(found[1].entry, release(one, "same").entry);
    assert_eq!(store.find_built(&api, &Digest::of(b"same")).await.unwrap().unwrap().number, one);
    assert_eq!(store.find_built(&api, &Digest::of(b"other")).await.unwrap(), None);
    store.set_release_state(&api, one, ReleaseState::Gone).await.unwrap();
    assert_eq!(store.find_built(&api, &Digest::of(b"same")).await.unwrap(), None);
}

#[tokio::test]
async fn the_active_release_is_remembered_and_may_change_its_entry() {
    let (_dir, store) = open_store();
    let api = name("api");
    assert!(matches!(
        store.set_active(&api, ReleaseNumber(1)).await,
        Err(Error::Sqlite(agentd_sqlite::Error::Missing { .. }))
    ));
    let (one, two) = (new_release(&store, "a").await, new_release(&store, "b").await);
    assert_eq!(store.active_release(&api).await.unwrap(), None);
    store.set_active(&api, one).await.unwrap();
    store.set_active(&api, two).await.unwrap();
    assert!(matches!(
        store.set_active(&api, ReleaseNumber(9)).await,
        Err(Error::Sqlite(agentd_sqlite::Error::Missing { .. }))
    ));
    let mut entry = release(two, "b").entry;
    entry.path = Some("/moved".into());
    store.update_release(&api, two, &entry, &commit('3')).await.unwrap();
    let active = store.active_release(&api).await.unwrap().unwrap();
    assert_eq!((active.number, active.commit, active.entry), (two, commit('3'), entry));
    assert_eq!(store.services().await.unwrap()[0].active, Some(two));
}

#[tokio::test]
async fn a_removed_service_may_be_wanted_again() {
    let (_dir, store) = open_store();
    let api = name("api");
    store.ensure_service(&api).await.unwrap();
    store.mark_removed(&api).await.unwrap();
    assert!(store.services().await.unwrap()[0].is_removed());
    store.ensure_service(&api).await.unwrap();
    assert!(!store.services().await.unwrap()[0].is_removed());
}

#[tokio::test]
async fn services_are_stopped_pinned_removed_and_pruned() {
    let (_dir, store) = open_store();
    let api = name("api");
    let whole = stack(vec![service("api"), service("web")]);
    store.put_version(&whole, &Refs::new()).await.unwrap();
    let one = new_release(&store, "a").await;
    store.set_stopped(&api, true).await.unwrap();
    let entry = entry_digest(&whole.service[0]);
    store.pin(&api, one, entry).await.unwrap();
    let found = store.services().await.unwrap().remove(0);
    assert_eq!((found.stopped, found.pinned), (true, Some(Pin { release: one, entry })));
    store.unpin(&api).await.unwrap();
    assert_eq!(store.services().await.unwrap()[0].pinned, None);

    store.mark_removed(&api).await.unwrap();
    let found = store.services().await.unwrap().remove(0);
    assert!(found.is_removed() && !found.stopped);
    store.put_version(&with_env(whole, "back"), &Refs::new()).await.unwrap();
    assert_eq!(store.services().await.unwrap()[0].removed_unix_ms, None);

    store.prune_service(&api).await.unwrap();
    assert_eq!(store.services().await.unwrap().len(), 1);
    assert_eq!(store.releases(&api).await.unwrap(), []);
    assert_eq!(store.next_release(&api).await.unwrap(), ReleaseNumber(2), "a number is never used twice");
    assert!(matches!(store.set_stopped(&api, true).await, Err(Error::Sqlite(agentd_sqlite::Error::Missing { .. }))));
}

#[tokio::test]
async fn deploys_tell_how_far_they_came() {
    let (_dir, store) = open_store();
    let new = |to| NewDeploy { service: name("api"), from: None, to: ReleaseNumber(to), phase: DeployPhase::Fetch };
    let one = store.start_deploy(new(1)).await.unwrap();
    let end = DeployEnd::Failed(Box::new(problem()));
    store.end_deploy(one, end.clone()).await.unwrap();
    let two = store.start_deploy(new(2)).await.unwrap();
    let three = store.start_deploy(new(3)).await.unwrap();
    let found = store.deploys(&name("api"), 10).await.unwrap();
    assert_eq!(found.iter().map(|d| d.id).collect::<Vec<_>>(), [three, two, one]);
    assert_eq!((&found[0].end, found[0].ended_unix_ms), (&None, None));
    assert_eq!(found[1].end, Some(DeployEnd::Superseded), "the next one ends it");
    assert_eq!(found[2].end, Some(end));
}

fn event(services: usize) -> NewEvent {
    NewEvent {
        at_unix_ms: 1_000 + u64::try_from(services).unwrap(),
        service: Some(name("api")),
        release: Some(ReleaseNumber(1)),
        instance: None,
        suppressed: 0,
        shim_seq: None,
        what: What::ConfigSeen { services },
    }
}

fn newest(limit: u32) -> EventQuery {
    EventQuery { limit, ..EventQuery::default() }
}

#[tokio::test]
async fn events_are_bounded_and_in_order() {
    let (dir, store) = open_store();
    store.record_events(vec![event(0)]).await.unwrap();
    // Ids jump as if the bound had been reached, which 10,000 commits would take long to do.
    let raw = Connection::open(dir.path().join("agentd.db")).unwrap();
    raw.execute("UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'events'", [EVENTS_KEPT]).unwrap();
    let mut told = store.newest_event();
    store.record_events(vec![event(1), event(2)]).await.unwrap();
    assert!(told.has_changed().unwrap());
    let found = store.events(newest(10)).await.unwrap();
    assert_eq!(found.iter().map(|e| e.at_unix_ms).collect::<Vec<_>>(), [1_001, 1_002]);
    assert_eq!(found[1].id, *told.borrow_and_update());
    assert_eq!(store.events(newest(1)).await.unwrap(), found[1..]);
    let after = EventQuery { after: Some(found[0].id), ..newest(10) };
    assert_eq!(store.events(after).await.unwrap(), found[1..]);
    let since = EventQuery { since_unix_ms: Some(1_002), ..newest(10) };
    assert_eq!(store.events(since).await.unwrap(), found[1..]);
    let other = EventQuery { service: Some(name("web")), ..newest(10) };
    assert_eq!(store.events(other).await.unwrap(), []);
}

#[tokio::test]
async fn how_far_a_shims_account_was_recorded_only_grows() {
    let (_dir, store) = open_store();
    let (one, two) = (InstanceId::new("aaaaaaaaaaaa").unwrap(), InstanceId::new("bbbbbbbbbbbb").unwrap());
    let told = |id: &InstanceId, seq| NewEvent { instance: Some(id.clone()), shim_seq: Some(seq), ..event(1) };
    store.record_events(vec![told(&one, 7), told(&two, 2), told(&one, 5), event(3)]).await.unwrap();
    store.next_epoch().await.unwrap();
    assert_eq!(store.shim_events_recorded().await.unwrap(), BTreeMap::from([(one.clone(), 7), (two.clone(), 2)]));
    store.forget_shim_events(vec![one]).await.unwrap();
    assert_eq!(store.shim_events_recorded().await.unwrap(), BTreeMap::from([(two, 2)]));
}

#[tokio::test]
async fn events_of_another_version_are_shown_as_they_stand() {
    let (dir, store) = open_store();
    let instance = InstanceId::new("abcdef012345").ok();
    store.record_events(vec![NewEvent { instance: instance.clone(), suppressed: 3, ..event(1) }]).await.unwrap();
    let raw = Connection::open(dir.path().join("agentd.db")).unwrap();
    for (kind, cause) in [("moon.full", r#"{"phase":3}"#), ("instance.started", "null"), ("run.started", "no JSON")] {
        raw.execute("INSERT INTO events (at, kind, cause) VALUES (1, ?1, ?2)", [kind, cause]).unwrap();
    }
    let found = store.events(newest(10)).await.unwrap();
    assert_eq!((&found[0].instance, found[0].suppressed), (&instance, 3));
    assert_eq!(found[0].what, What::ConfigSeen { services: 1 });
    let texts: Vec<&str> = found[1..].iter().map(|event| event.text.as_str()).collect();
    assert_eq!(texts, [r#"moon.full {"phase":3}"#, "instance.started", r#"run.started "no JSON""#]);
}

prop_compose! {
    fn any_stack()(
        labels in prop::collection::btree_set("[a-z][a-z0-9]{0,8}", 0..5),
        values in prop::collection::btree_map("[A-Z_]{1,6}", any::<String>(), 0..4),
        branch in "[ -~]{1,12}",
        port in any::<Option<u16>>(),
    ) -> Stack {
        let mut whole = stack(labels.iter().map(|label| service(label)).collect());
        for (place, entry) in whole.service.iter_mut().enumerate() {
            entry.port = port;
            if place % 2 == 0 {
                entry.env = values.clone();
                entry.source = Revision::Ref(branch.clone());
            }
        }
        whole
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_published_comes_back(stacks in prop::collection::vec(any_stack(), 1..4)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (_dir, store) = open_store();
            for whole in stacks {
                let (Put::New(version) | Put::Unchanged(version)) =
                    store.put_version(&whole, &Refs::new()).await.unwrap();
                let found = store.version(version).await.unwrap().unwrap();
                assert_eq!(found.stack, whole);
                assert_eq!(store.put_version(&whole, &Refs::new()).await.unwrap(), Put::Unchanged(version));
            }
        });
    }
}

#[tokio::test]
async fn past_restarts_are_those_of_the_release_that_serves() {
    let (_dir, store) = open_store();
    let (api, id) = (name("api"), |letter: &str| InstanceId::new(letter.repeat(12)).unwrap());
    let (one, two) = (new_release(&store, "one").await, new_release(&store, "two").await);
    store.set_active(&api, two).await.unwrap();
    store.note_restarts(&api, one, &id("a"), 7).await.unwrap();
    store.note_restarts(&api, two, &id("b"), 1).await.unwrap();
    store.note_restarts(&api, two, &id("b"), 2).await.unwrap();
    let past = PastRestarts { service: api.clone(), instance: id("b"), count: 2 };
    assert_eq!(store.past_restarts().await.unwrap(), [past]);
    store.prune_service(&api).await.unwrap();
    assert_eq!(store.past_restarts().await.unwrap(), []);
    assert!(store.note_restarts(&api, two, &id("c"), 1).await.is_err(), "of a release that is forgotten");
}

fn trust() -> agentd_protocol::control::trust::TrustRecord {
    serde_json::from_value(serde_json::json!({
        "root": {"stack": "stk_TEST", "version": 1, "epoch": 1, "mode": "managed", "expires": "2036-01-01T00:00:00Z",
                 "keys": {}, "threshold": {"root": 1, "version": 1, "fresh": 1}},
        "floor": null, "time_floor": "1970-01-01T00:00:00Z", "fresh_until": "1970-01-01T00:00:00Z",
    }))
    .unwrap()
}

/// A server's answer was once believed to the end of the numbers; whatever stands there, the manager starts.
#[tokio::test]
async fn a_count_of_starts_that_cannot_be_stops_nobody() {
    let (dir, store) = open_store();
    let begin = async || store.begin_control(Joining { id: "one".into(), trust: trust() }).await.unwrap().boot;
    assert_eq!((begin().await, begin().await), (1, 2));
    let file = rusqlite::Connection::open(dir.path().join("agentd.db")).unwrap();
    for (found, boots) in [
        (i64::MAX, [BOOT_MAX; 2]),
        (i64::MAX - 1, [BOOT_MAX; 2]),
        (i64::MIN, [1, 2]),
        (-1, [1, 2]),
        (0, [1, 2]),
        (i64::try_from(BOOT_MAX).unwrap() - 2, [BOOT_MAX - 1, BOOT_MAX]),
    ] {
        file.execute("UPDATE control SET boot = ?1", [found]).unwrap();
        assert_eq!([begin().await, begin().await], boots, "{found}");
    }
    for (set, boot) in [(u64::MAX, BOOT_MAX), (40, 41)] {
        store.set_boot(set).await.unwrap();
        assert_eq!(begin().await, boot);
    }
}

#[tokio::test]
async fn after_a_new_epoch_the_newest_is_what_was_believed_last() {
    let (_dir, store) = open_store();
    store.begin_control(Joining { id: "a joining".into(), trust: trust() }).await.unwrap();
    let adopt = async |number| {
        let stack = stack(vec![service("api")]);
        let verified =
            VerifiedVersion { version: Version(number), sha256: Digest::of(b"state"), stack, trust: trust() };
        store.adopt_version(verified).await.unwrap();
        store.latest_version().await.unwrap().unwrap().version
    };
    assert_eq!((adopt(7).await, adopt(1_000).await), (Version(7), Version(1_000)));
    // The thief's thousand is history.
    assert_eq!((adopt(1).await, adopt(2).await), (Version(1), Version(2)));
}
