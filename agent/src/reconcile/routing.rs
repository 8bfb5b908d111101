//! What the edge is told: a pure function of the routing table and of what is ready, and the task that tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentd_protocol::edge::{Absent, Backend, ForwardedBy, Route, Service, Snapshot};
use agentd_protocol::ids::{Generation, Incarnation, InstanceId, ServiceName, Version};
use agentd_protocol::shim::state::Phase;
use agentd_protocol::stack::Kind;
use agentd_sys::causes::chain;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::journal::Journal;
use super::{Error, transitions};
use crate::edge::EdgeClient;
use crate::store::Store;
use crate::supervisor::{InstanceView, Readiness};

/// Requests to publish that may wait: one per service worker is usual.
const REQUESTS_MAX: usize = 64;
/// After a failed publish the table is sent again so often, until the edge has it.
const RETRY: Duration = Duration::from_secs(1);

/// How one service is routed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Which version its route came with.
    pub(super) version: Version,
    pub(super) route: Option<RouteWish>,
    /// Instances that requests may go to once they are ready.
    pub(super) instances: BTreeSet<InstanceId>,
    pub(super) absent: Absent,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RouteWish {
    pub(super) host: Option<String>,
    pub(super) path: String,
    pub(super) strip_prefix: bool,
}

pub(super) type Table = BTreeMap<ServiceName, Entry>;
pub(super) type Views = BTreeMap<InstanceId, InstanceView>;

/// The snapshot without its number, which only a publish gives.
pub(super) fn snapshot(table: &Table, views: &Views, health_path: Option<&str>, suffix: &str) -> Snapshot {
    let mut claims: BTreeMap<(Option<&str>, &str), (&ServiceName, &Entry, &RouteWish)> = BTreeMap::new();
    for (name, entry) in table {
        if let Some(wish) = &entry.route {
            let claim = claims.entry((wish.host.as_deref(), wish.path.as_str())).or_insert((name, entry, wish));
            if strength(entry) > strength(claim.1) {
                *claim = (name, entry, wish);
            }
        }
    }
    let routes = claims.into_values().map(|(service, _, wish)| Route {
        host: wish.host.clone(),
        path: wish.path.clone(),
        strip_prefix: wish.strip_prefix,
        service: service.clone(),
    });
    let services = table.iter().map(|(name, entry)| Service {
        name: name.clone(),
        backends: backends(&entry.instances, views),
        absent: absent(entry, views),
    });
    Snapshot {
        generation: Generation(0),
        health_path: health_path.map(str::to_owned),
        routes: routes.collect(),
        services: services.collect(),
        suffix: suffix.to_owned(),
        client_address: ForwardedBy::Nobody,
    }
}

/// While a path moves from one service to another both claim it: who can answer wins, then the newer version.
fn strength(entry: &Entry) -> (bool, Version) {
    (!entry.instances.is_empty(), entry.version)
}

/// Every ready instance; when none is, the running ones that have been ready before: failing open beats failing.
fn backends(instances: &BTreeSet<InstanceId>, views: &Views) -> Vec<Backend> {
    let running = || {
        instances
            .iter()
            .filter_map(|id| views.get(id))
            .filter(|view| matches!(view.phase, Phase::Up { .. }) && view.port.is_some())
    };
    let ready: Vec<Backend> = running().filter(|view| view.is_ready()).filter_map(backend).collect();
    if ready.is_empty() {
        running().filter(|view| matches!(view.readiness, Readiness::Failing { .. })).filter_map(backend).collect()
    } else {
        ready
    }
}

pub(super) fn backend(view: &InstanceView) -> Option<Backend> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, view.port?));
    Some(Backend { instance: view.id.clone(), incarnation: view.incarnation, address })
}

fn absent(entry: &Entry, views: &Views) -> Absent {
    if entry.kind == Kind::Worker {
        return Absent::NoPort;
    }
    let crash_loops = entry.instances.iter().filter_map(|id| views.get(id)).any(|view| {
        matches!(view.phase, Phase::Quarantined { .. } | Phase::Backoff { .. })
            || matches!(view.readiness, Readiness::StartDeadlineOver { .. })
    });
    if crash_loops && entry.absent == Absent::Starting { Absent::Failing } else { entry.absent }
}

/// The routing table, shared by the service workers.
#[derive(Debug, Clone)]
pub(super) struct Routing {
    table: Arc<Mutex<Table>>,
    health_path: Arc<Mutex<Option<String>>>,
    suffix: Arc<str>,
    client_address: ForwardedBy,
    known: Arc<Mutex<Known>>,
    published: Arc<Mutex<Published>>,
    requests: mpsc::Sender<oneshot::Sender<Result<(), Error>>>,
}

/// How far the edge follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Published {
    /// The last one the edge is known to route by; at first, without a number, what it routed by when the manager
    /// started.
    pub(super) in_force: Snapshot,
    /// Why it does not route by the newest one.
    pub(super) refused: Option<String>,
}

/// What the edge may have given requests to, in this manager's life or before it.
#[derive(Debug, Default)]
struct Known {
    /// Found at start: a manager before this one may have routed to them, and the edge may be draining them still.
    found: BTreeSet<InstanceId>,
    sent: BTreeSet<(InstanceId, Incarnation)>,
}

impl Known {
    fn note(&mut self, snapshot: &Snapshot, views: &Views) {
        self.found.retain(|id| views.contains_key(id));
        self.sent.retain(|(id, _)| views.contains_key(id));
        self.sent.extend(snapshot.services.iter().flat_map(|service| &service.backends).map(key));
    }

    fn has(&self, backend: &Backend) -> bool {
        self.found.contains(&backend.instance) || self.sent.contains(&key(backend))
    }
}

fn key(backend: &Backend) -> (InstanceId, Incarnation) {
    (backend.instance.clone(), backend.incarnation)
}

/// The end of [`Routing`] that publishes.
#[derive(Debug)]
pub(super) struct Publisher {
    routing: Routing,
    requests: mpsc::Receiver<oneshot::Sender<Result<(), Error>>>,
    views: watch::Receiver<Arc<Views>>,
    edge: EdgeClient,
    store: Store,
    journal: Journal,
    last: Option<Snapshot>,
}

impl Routing {
    pub(super) fn new(
        views: watch::Receiver<Arc<Views>>,
        edge: EdgeClient,
        store: Store,
        journal: Journal,
        suffix: &str,
        client_address: ForwardedBy,
    ) -> (Self, Publisher) {
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let found = views.borrow().keys().cloned().collect();
        let known = Arc::new(Mutex::new(Known { found, sent: BTreeSet::new() }));
        let in_force = snapshot(&Table::new(), &Views::new(), None, suffix);
        let published = Arc::new(Mutex::new(Published { in_force, refused: None }));
        let routing = Self {
            table: Arc::default(),
            health_path: Arc::default(),
            suffix: suffix.into(),
            client_address,
            known,
            published,
            requests,
        };
        let publisher =
            Publisher { routing: routing.clone(), requests: queue, views, edge, store, journal, last: None };
        (routing, publisher)
    }

    pub(super) fn set_health_path(&self, path: Option<String>) {
        *self.health_path.lock().expect("no holder panics") = path;
    }

    /// Changes the table; takes effect with the next commit.
    pub(super) fn set(&self, name: &ServiceName, entry: Option<Entry>) {
        let mut table = self.table.lock().expect("no holder panics");
        match entry {
            Some(entry) => table.insert(name.clone(), entry),
            None => table.remove(name),
        };
    }

    pub(super) fn update(&self, name: &ServiceName, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.table.lock().expect("no holder panics").get_mut(name) {
            change(entry);
        }
    }

    pub(super) fn get(&self, name: &ServiceName) -> Option<Entry> {
        self.table.lock().expect("no holder panics").get(name).cloned()
    }

    /// `false`: the edge was never told of this backend, so there is nothing to drain.
    pub(super) fn may_know(&self, backend: &Backend) -> bool {
        self.known.lock().expect("no holder panics").has(backend)
    }

    pub(super) fn published(&self) -> Published {
        self.published.lock().expect("no holder panics").clone()
    }

    /// Returns when the edge routes by the table as it stands now, or says why it does not.
    pub(super) async fn commit(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(reply).await.map_err(|_| Error::Ended)?;
        answer.await.map_err(|_| Error::Ended)?
    }

    fn compute(&self, views: &Views) -> Snapshot {
        let table = self.table.lock().expect("no holder panics");
        let health_path = self.health_path.lock().expect("no holder panics");
        let client_address = self.client_address;
        Snapshot { client_address, ..snapshot(&table, views, health_path.as_deref(), &self.suffix) }
    }
}

impl Publisher {
    /// The table holds what a manager before this one routed: none of it is news.
    pub(super) fn take_as_known(&mut self) {
        let in_force = self.routing.compute(&self.views.borrow());
        self.routing.published.lock().expect("no holder panics").in_force = in_force;
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut retry = false;
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                () = cancel.cancelled() => return,
                request = self.requests.recv() => match request {
                    Some(request) => waiting.push(request),
                    None => return,
                },
                changed = self.views.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if retry => {}
            }
            while let Ok(request) = self.requests.try_recv() {
                waiting.push(request);
            }
            let published = self.publish().await;
            retry = published.is_err();
            if let (Err(error), true) = (&published, waiting.is_empty()) {
                tracing::warn!(%error, "the edge does not route by the newest table yet");
            }
            for reply in waiting {
                let answer = match &published {
                    Ok(()) => Ok(()),
                    Err(error) => Err(Error::Route { cause: chain(error) }),
                };
                // A worker that no longer waits has been overtaken by a newer order.
                let _ = reply.send(answer);
            }
        }
    }

    async fn publish(&mut self) -> Result<(), Error> {
        let views = self.views.borrow_and_update().clone();
        let mut snapshot = self.routing.compute(&views);
        if self.last.as_ref().is_some_and(|last| same_but_generation(last, &snapshot)) {
            return Ok(());
        }
        self.routing.known.lock().expect("no holder panics").note(&snapshot, &views);
        snapshot.generation = self.store.next_generation().await?;
        let sent = self.edge.publish(snapshot.clone()).await;
        self.last = sent.is_ok().then(|| snapshot.clone());
        let mut published = self.routing.published.lock().expect("no holder panics");
        published.refused = sent.as_ref().err().map(|error| chain(error));
        sent?;
        let before = std::mem::replace(&mut published.in_force, snapshot);
        let facts = transitions::snapshot(&before, &published.in_force);
        facts.into_iter().for_each(|fact| self.journal.note(fact));
        Ok(())
    }
}

fn same_but_generation(a: &Snapshot, b: &Snapshot) -> bool {
    Snapshot { generation: b.generation, ..a.clone() } == *b
}

#[cfg(test)]
mod tests {
    use super::super::testing::{failing, id, name, not_ready, ready, views};
    use super::*;

    fn entry(version: u64, path: &str, instances: &[char]) -> Entry {
        let route = Some(RouteWish { host: None, path: path.into(), strip_prefix: false });
        let instances = instances.iter().map(|letter| id(*letter)).collect();
        Entry { version: Version(version), route, instances, absent: Absent::Starting, kind: Kind::Web }
    }

    fn table(entries: &[(&str, Entry)]) -> Table {
        entries.iter().map(|(service, entry)| (name(service), entry.clone())).collect()
    }

    fn routed(table: &Table, seen: &Views) -> Vec<InstanceId> {
        snapshot(table, seen, None, "s").services[0].backends.iter().map(|backend| backend.instance.clone()).collect()
    }

    #[test]
    fn requests_go_to_the_ready_instances_on_the_table_and_to_no_other() {
        let one = table(&[("api", entry(1, "/", &['a', 'b', 'c']))]);
        assert_eq!(routed(&one, &views([ready('a'), not_ready('b'), failing('c'), ready('d')])), [id('a')]);
    }

    #[test]
    fn when_all_fail_those_that_were_ready_before_go_on_serving() {
        let one = table(&[("api", entry(1, "/", &['a', 'b', 'c']))]);
        let down = InstanceView { phase: Phase::Down, ..failing('c') };
        assert_eq!(routed(&one, &views([failing('a'), not_ready('b'), down])), [id('a')]);
    }

    #[test]
    fn a_path_that_moves_stays_with_who_can_answer_until_the_newer_one_can() {
        let seen = views([ready('a'), ready('b')]);
        let owner = |table: &Table| snapshot(table, &seen, None, "s").routes[0].service.clone();
        let old = ("old", entry(1, "/", &['a']));
        assert_eq!(owner(&table(&[old.clone(), ("new", entry(2, "/", &[]))])), name("old"));
        assert_eq!(owner(&table(&[old.clone(), ("new", entry(2, "/", &['b']))])), name("new"));
        let both = table(&[old, ("new", entry(2, "/", &['b']))]);
        assert_eq!(snapshot(&both, &seen, None, "s").routes.len(), 1, "a path has one owner");
    }

    #[test]
    fn why_nobody_answers() {
        let absent = |absent, view| {
            let one = table(&[("api", Entry { absent, ..entry(1, "/", &['a']) })]);
            snapshot(&one, &views([view]), None, "s").services[0].absent
        };
        let backoff = || InstanceView { phase: Phase::Backoff { retry_at_boot_ms: 1 }, ..not_ready('a') };
        assert_eq!(absent(Absent::Starting, not_ready('a')), Absent::Starting);
        assert_eq!(absent(Absent::Starting, backoff()), Absent::Failing);
        assert_eq!(absent(Absent::Replacing, backoff()), Absent::Replacing);
        assert_eq!(absent(Absent::Stopped, backoff()), Absent::Stopped);
        let worker = Entry { kind: Kind::Worker, ..entry(1, "/", &['a']) };
        let seen = snapshot(&table(&[("mail", worker)]), &views([backoff()]), None, "s");
        assert_eq!(seen.services[0].absent, Absent::NoPort, "a worker has its name, and never a backend");
    }

    #[test]
    fn only_what_the_edge_may_have_routed_to_is_drained() {
        let seen = views([ready('a'), ready('b'), ready('c')]);
        let sent = snapshot(&table(&[("api", entry(1, "/", &['b']))]), &seen, None, "s");
        let mut known = Known { found: BTreeSet::from([id('a')]), sent: BTreeSet::new() };
        known.note(&sent, &seen);
        let has = |known: &Known, letter| known.has(&backend(&ready(letter)).unwrap());
        assert!(has(&known, 'a'), "found at start: an edge may be draining it");
        assert!(has(&known, 'b'), "was in a snapshot");
        assert!(!has(&known, 'c'), "never routed");
        let crashed = InstanceView { incarnation: Incarnation(2), ..ready('b') };
        assert!(!known.has(&backend(&crashed).unwrap()), "its next incarnation never was");
        known.note(&sent, &views([ready('c')]));
        assert!(!has(&known, 'a'), "what is gone is forgotten");
    }
}
