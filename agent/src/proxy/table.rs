//! One snapshot made ready for requests, and the registry that carries backends from one snapshot to the next.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use agentd_protocol::edge::{Absent, Snapshot};
use agentd_protocol::ids::ServiceName;
use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::backends::{Backend, BackendKey};
use super::entrance::Entrance;
use super::hold::Held;
use super::names::Names;
use super::routes::{Match, Routes};

/// Idle backends remembered for a manager that connects later; one snapshot rarely removes more.
const IDLE_KEPT_MAX: usize = 4096;

type Backends = HashMap<BackendKey, Arc<Backend>>;

/// Immutable; replaced as a whole.
#[derive(Debug, Default)]
pub struct Table {
    /// `None` until the first snapshot.
    pub snapshot: Option<Snapshot>,
    pub routes: Routes,
    pub names: Names,
    /// In the snapshot's order.
    pub services: Vec<Service>,
    /// Cancelled when the next table is in force.
    pub replaced: CancellationToken,
}

#[derive(Debug)]
pub struct Service {
    pub backends: Vec<Arc<Backend>>,
    pub absent: Absent,
    pub(super) held: Held,
}

impl Table {
    pub fn health_path(&self) -> Option<&str> {
        self.snapshot.as_ref()?.health_path.as_deref()
    }

    /// The two entrances share no way in: names lead nowhere from outside, nor routes from within.
    pub fn find(&self, entrance: Entrance, host: Option<&str>, path: &str) -> Option<Match> {
        match entrance {
            Entrance::External => self.routes.lookup(host, path),
            Entrance::Internal => self.names.lookup(host),
        }
    }
}

/// Owned by the one task that takes snapshots in; requests see only the table.
#[derive(Debug)]
pub struct Registry {
    table: Arc<ArcSwap<Table>>,
    backends: Backends,
    held: HashMap<ServiceName, Held>,
    /// Removed and still in use.
    draining: Vec<Arc<Backend>>,
    /// Removed and unused, oldest first.
    idle: VecDeque<BackendKey>,
    idle_changed: Arc<Notify>,
}

impl Registry {
    pub fn new(table: Arc<ArcSwap<Table>>) -> Self {
        Self {
            table,
            backends: HashMap::new(),
            held: HashMap::new(),
            draining: Vec::new(),
            idle: VecDeque::new(),
            idle_changed: Arc::new(Notify::new()),
        }
    }

    pub fn table(&self) -> &Arc<ArcSwap<Table>> {
        &self.table
    }

    /// Woken when [`Self::take_idle`] may have something new.
    pub fn idle_changed(&self) -> Arc<Notify> {
        Arc::clone(&self.idle_changed)
    }

    /// All or nothing: on an error the table in force stays. When this returns, every new request is routed by
    /// `snapshot`.
    pub fn apply(&mut self, snapshot: Snapshot) -> Result<(), Error> {
        let current = self.table.load_full();
        if let Some(in_force) = &current.snapshot {
            if snapshot.generation < in_force.generation {
                return Err(Error::Older { offered: snapshot.generation, in_force: in_force.generation });
            }
            if snapshot.generation == in_force.generation {
                return if snapshot == *in_force {
                    Ok(())
                } else {
                    Err(Error::SameGeneration { generation: snapshot.generation })
                };
            }
        }
        let routes = routes_of(&snapshot)?;
        let (services, backends) = self.backends_of(&snapshot)?;
        let named = snapshot.services.iter().zip(&services);
        self.held = named.map(|(named, service)| (named.name.clone(), service.held.clone())).collect();
        let names = Names::build(&snapshot.suffix, snapshot.services.iter().map(|service| &service.name));
        let table = Table { snapshot: Some(snapshot), routes, names, services, replaced: CancellationToken::new() };
        self.install(table, backends);
        Ok(())
    }

    /// Backends that became idle since the last call.
    pub fn take_idle(&mut self) -> Vec<BackendKey> {
        let idle = self.draining.extract_if(.., |backend| backend.is_idle());
        let fresh: Vec<_> = idle.map(|backend| backend.key().clone()).collect();
        self.idle.extend(fresh.iter().cloned());
        while self.idle.len() > IDLE_KEPT_MAX {
            self.idle.pop_front();
        }
        fresh
    }

    /// Those of the snapshot in force, and removed ones in use.
    pub fn in_use(&self) -> Vec<BackendKey> {
        let draining = self.draining.iter().map(|backend| backend.key());
        self.backends.keys().chain(draining).cloned().collect()
    }

    /// All that are removed and idle, for a manager that was not there to hear it.
    pub fn known_idle(&self) -> impl Iterator<Item = &BackendKey> {
        self.idle.iter()
    }

    fn backends_of(&self, snapshot: &Snapshot) -> Result<(Vec<Service>, Backends), Error> {
        let mut all = HashMap::new();
        let mut services = Vec::with_capacity(snapshot.services.len());
        for service in &snapshot.services {
            let mut backends = Vec::with_capacity(service.backends.len());
            for wanted in &service.backends {
                let key = (wanted.instance.clone(), wanted.incarnation);
                let known = self.backends.get(&key).or_else(|| self.draining.iter().find(|known| *known.key() == key));
                let backend = match known {
                    Some(known) if known.address() != wanted.address => {
                        return Err(Error::BackendMoved { instance: key.0 });
                    }
                    Some(known) => Arc::clone(known),
                    None => Arc::new(Backend::new(wanted, Arc::clone(&self.idle_changed))),
                };
                if all.insert(key, Arc::clone(&backend)).is_some() {
                    return Err(Error::DuplicateBackend { instance: wanted.instance.clone() });
                }
                backends.push(backend);
            }
            let held = self.held.get(&service.name).cloned().unwrap_or_default();
            services.push(Service { backends, absent: service.absent, held });
        }
        Ok((services, all))
    }

    /// The table goes first: whoever finds a backend draining then finds the new table.
    fn install(&mut self, table: Table, backends: Backends) {
        for backend in backends.values() {
            backend.revive();
        }
        self.table.swap(Arc::new(table)).replaced.cancel();
        let before = std::mem::replace(&mut self.backends, backends);
        self.draining.retain(|backend| !self.backends.contains_key(backend.key()));
        self.idle.clear();
        for (key, backend) in before {
            if !self.backends.contains_key(&key) {
                backend.drain();
                self.draining.push(backend);
            }
        }
        self.idle_changed.notify_one();
    }
}

fn routes_of(snapshot: &Snapshot) -> Result<Routes, Error> {
    let mut positions = HashMap::with_capacity(snapshot.services.len());
    for (position, service) in snapshot.services.iter().enumerate() {
        if positions.insert(&service.name, position).is_some() {
            return Err(Error::DuplicateService { name: service.name.clone() });
        }
    }
    Routes::build(&snapshot.routes, |route| positions.get(&route.service).copied())
}

#[cfg(test)]
mod tests {
    use agentd_protocol::edge::{self, ForwardedBy};
    use agentd_protocol::ids::{Generation, Incarnation, InstanceId, ServiceName};

    use super::*;

    fn snapshot(generation: u64, instances: &[(&str, u16)]) -> Snapshot {
        let name = ServiceName::new("web").unwrap();
        let backends = instances.iter().map(|(instance, port)| edge::Backend {
            instance: InstanceId::new(format!("{instance:0>12}")).unwrap(),
            incarnation: Incarnation(1),
            address: ([127, 0, 0, 1], *port).into(),
        });
        Snapshot {
            generation: Generation(generation),
            health_path: None,
            routes: vec![edge::Route { host: None, path: "/".into(), strip_prefix: false, service: name.clone() }],
            services: vec![edge::Service { name, backends: backends.collect(), absent: Absent::Starting }],
            suffix: "svc.internal".into(),
            client_address: ForwardedBy::Nobody,
        }
    }

    fn registry() -> Registry {
        Registry::new(Arc::new(ArcSwap::from_pointee(Table::default())))
    }

    fn only(registry: &Registry) -> Arc<Backend> {
        Arc::clone(&registry.table().load().services[0].backends[0])
    }

    #[test]
    fn generations_only_grow() {
        let mut registry = registry();
        registry.apply(snapshot(2, &[("a", 1)])).unwrap();
        registry.apply(snapshot(2, &[("a", 1)])).unwrap();
        assert!(matches!(registry.apply(snapshot(2, &[("b", 1)])), Err(Error::SameGeneration { .. })));
        assert!(matches!(registry.apply(snapshot(1, &[])), Err(Error::Older { .. })));
        assert_eq!(only(&registry).key().0.as_str(), "00000000000a");
    }

    #[test]
    fn a_bad_snapshot_changes_nothing() {
        let mut registry = registry();
        registry.apply(snapshot(1, &[("a", 1)])).unwrap();
        assert!(matches!(registry.apply(snapshot(2, &[("b", 1), ("b", 2)])), Err(Error::DuplicateBackend { .. })));
        assert!(matches!(registry.apply(snapshot(2, &[("a", 2)])), Err(Error::BackendMoved { .. })));
        let mut unknown = snapshot(2, &[]);
        unknown.services.clear();
        assert!(matches!(registry.apply(unknown), Err(Error::UnknownService { .. })));
        let mut twice = snapshot(2, &[]);
        twice.services.push(twice.services[0].clone());
        assert!(matches!(registry.apply(twice), Err(Error::DuplicateService { .. })));
        assert!(only(&registry).acquire().is_some(), "still in force");
    }

    #[test]
    fn a_removed_backend_is_idle_after_its_last_lease() {
        let mut registry = registry();
        registry.apply(snapshot(1, &[("a", 1)])).unwrap();
        let old = only(&registry);
        let lease = old.acquire().unwrap();
        registry.apply(snapshot(2, &[("b", 2)])).unwrap();
        assert!(old.acquire().is_none());
        assert!(registry.take_idle().is_empty());
        drop(lease);
        assert_eq!(registry.take_idle(), [old.key().clone()]);
        assert!(registry.take_idle().is_empty(), "told once");
        assert_eq!(registry.known_idle().count(), 1);
        registry.apply(snapshot(3, &[("b", 2)])).unwrap();
        assert_eq!(registry.known_idle().count(), 0, "forgotten with the next snapshot");
    }

    #[test]
    fn a_backend_that_returns_keeps_its_count() {
        let mut registry = registry();
        registry.apply(snapshot(1, &[("a", 1)])).unwrap();
        let lease = only(&registry).acquire().unwrap();
        registry.apply(snapshot(2, &[])).unwrap();
        registry.apply(snapshot(3, &[("a", 1)])).unwrap();
        assert!(Arc::ptr_eq(lease.backend(), &only(&registry)));
        assert_eq!(only(&registry).leases(), 1);
        assert!(only(&registry).acquire().is_some());
        drop(lease);
        assert!(registry.take_idle().is_empty());
    }
}
