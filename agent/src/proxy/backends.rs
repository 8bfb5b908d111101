//! Backends that outlive snapshots: who is using one, whether it drains, whether it refused us lately.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentd_protocol::edge;
use agentd_protocol::ids::{Incarnation, InstanceId};
use pingora::upstreams::peer::HttpPeer;
use tokio::sync::Notify;

use super::peer;

const DRAINING: u64 = 1 << 63;
/// A refusing backend is avoided for 1 s, then 2 s, at most 32 s; it is still used when there is no other.
const SUSPICION_BASE: Duration = Duration::from_secs(1);
const SUSPICION_DOUBLINGS_MAX: u64 = 5;
/// Low bits of the suspicion word hold the number of failures in a row, the rest milliseconds since `started`.
const FAILURE_BITS: u32 = 8;

/// Which start of which instance; the same key in two snapshots is the same backend.
pub type BackendKey = (InstanceId, Incarnation);

#[derive(Debug)]
pub struct Backend {
    key: BackendKey,
    address: std::net::SocketAddr,
    /// Cloned for every request.
    pub(super) peer: HttpPeer,
    /// Bit 63: draining. Below: leases out.
    state: AtomicU64,
    suspicion: AtomicU64,
    started: Instant,
    /// Woken when a draining backend lost its last lease.
    idle: Arc<Notify>,
}

/// One request's use of a backend; dropping it is the only way to give it back.
#[derive(Debug)]
pub struct Lease {
    backend: Arc<Backend>,
}

/// Whether a failure begins a period of suspicion or falls into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    New,
    Known,
}

impl Backend {
    pub fn new(backend: &edge::Backend, idle: Arc<Notify>) -> Self {
        Self {
            key: (backend.instance.clone(), backend.incarnation),
            address: backend.address,
            peer: peer::template(backend.address),
            state: AtomicU64::new(0),
            suspicion: AtomicU64::new(0),
            started: Instant::now(),
            idle,
        }
    }

    pub fn key(&self) -> &BackendKey {
        &self.key
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// `None` once the backend drains: the caller holds an old table and loads the new one.
    pub fn acquire(self: &Arc<Self>) -> Option<Lease> {
        let before = self.state.fetch_add(1, Ordering::AcqRel);
        let lease = Lease { backend: Arc::clone(self) };
        (before & DRAINING == 0).then_some(lease)
    }

    pub fn leases(&self) -> u64 {
        self.state.load(Ordering::Acquire) & !DRAINING
    }

    /// After this no lease is granted.
    pub fn drain(&self) {
        self.state.fetch_or(DRAINING, Ordering::AcqRel);
    }

    /// A snapshot brought it back.
    pub fn revive(&self) {
        self.state.fetch_and(!DRAINING, Ordering::AcqRel);
    }

    /// Draining and unused.
    pub fn is_idle(&self) -> bool {
        self.state.load(Ordering::Acquire) == DRAINING
    }

    pub fn is_suspect(&self, now: Instant) -> bool {
        self.elapsed_ms(now) < self.suspicion.load(Ordering::Relaxed) >> FAILURE_BITS
    }

    /// A connection was refused or timed out. Failures within one period count once.
    pub fn suspect(&self, now: Instant) -> Suspicion {
        let now_ms = self.elapsed_ms(now);
        let step = |word: u64| {
            if now_ms < word >> FAILURE_BITS {
                return None;
            }
            let failures = word & ((1 << FAILURE_BITS) - 1);
            let base_ms = u64::try_from(SUSPICION_BASE.as_millis()).unwrap_or(u64::MAX);
            let until_ms = now_ms + (base_ms << failures.min(SUSPICION_DOUBLINGS_MAX));
            Some(until_ms << FAILURE_BITS | (failures + 1).min(SUSPICION_DOUBLINGS_MAX))
        };
        match self.suspicion.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step) {
            Ok(_) => Suspicion::New,
            Err(_) => Suspicion::Known,
        }
    }

    pub fn trust(&self) {
        if self.suspicion.load(Ordering::Relaxed) != 0 {
            self.suspicion.store(0, Ordering::Relaxed);
        }
    }

    fn elapsed_ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX >> FAILURE_BITS)
    }
}

impl Lease {
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.backend.state.fetch_sub(1, Ordering::AcqRel) == DRAINING | 1 {
            self.backend.idle.notify_one();
        }
    }
}

/// Power of two choices among the backends not `tried` yet; suspects only when nothing else is left.
pub(super) fn pick<'a>(
    backends: &'a [Arc<Backend>],
    tried: &[BackendKey],
    now: Instant,
    mut random: impl FnMut(usize) -> usize,
) -> Option<&'a Arc<Backend>> {
    let untried = |backend: &&Arc<Backend>| !tried.contains(backend.key());
    let trusted = |backend: &&Arc<Backend>| untried(backend) && !backend.is_suspect(now);
    match backends.iter().filter(trusted).count() {
        0 => two_choices(backends.iter().filter(untried), &mut random),
        _ => two_choices(backends.iter().filter(trusted), &mut random),
    }
}

fn two_choices<'a>(
    candidates: impl Iterator<Item = &'a Arc<Backend>> + Clone,
    random: &mut impl FnMut(usize) -> usize,
) -> Option<&'a Arc<Backend>> {
    let count = candidates.clone().count();
    if count < 2 {
        return candidates.clone().next();
    }
    let first = random(count);
    let second = (first + 1 + random(count - 1)) % count;
    let nth = |position| candidates.clone().nth(position);
    let (first, second) = (nth(first)?, nth(second)?);
    Some(if second.leases() < first.leases() { second } else { first })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;

    fn backend(name: u32) -> Arc<Backend> {
        let backend = edge::Backend {
            instance: InstanceId::new(format!("{name:012}")).unwrap(),
            incarnation: Incarnation(1),
            address: "127.0.0.1:9".parse().unwrap(),
        };
        Arc::new(Backend::new(&backend, Arc::new(Notify::new())))
    }

    #[test]
    fn suspicion_doubles_per_period_and_ends_with_trust() {
        let backend = backend(1);
        let mut now = backend.started + Duration::from_secs(10);
        for expected_s in [1, 2, 4, 8, 16, 32, 32] {
            assert!(!backend.is_suspect(now));
            assert_eq!(backend.suspect(now), Suspicion::New);
            assert_eq!(backend.suspect(now), Suspicion::Known);
            assert!(backend.is_suspect(now + Duration::from_millis(expected_s * 1000 - 1)), "{expected_s}");
            now += Duration::from_secs(expected_s);
        }
        backend.suspect(now);
        backend.trust();
        assert!(!backend.is_suspect(now));
    }

    #[test]
    fn pick_prefers_the_less_used_the_trusted_and_the_untried() {
        let backends = [backend(1), backend(2), backend(3)];
        let now = Instant::now();
        let leases: Vec<_> = (0..2).map(|_| backends[0].acquire().unwrap()).collect();
        for seed in 0..9 {
            let mut draws = [seed % 3, seed % 2].into_iter();
            let picked = pick(&backends[..2], &[], now, |below| draws.next().unwrap() % below).unwrap();
            assert_eq!(picked.key(), backends[1].key());
        }
        drop(leases);
        backends[1].suspect(now);
        let tried = [backends[0].key().clone()];
        assert_eq!(pick(&backends, &tried, now, |_| 0).unwrap().key(), backends[2].key());
        let tried = [backends[0].key().clone(), backends[2].key().clone()];
        assert_eq!(pick(&backends, &tried, now, |_| 0).unwrap().key(), backends[1].key(), "a suspect beats nothing");
        let tried: Vec<_> = backends.iter().map(|backend| backend.key().clone()).collect();
        assert!(pick(&backends, &tried, now, |_| 0).is_none());
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Acquire,
        Release,
        Drain,
        Revive,
    }

    proptest! {
        #[test]
        fn leases_agree_with_a_counter(steps in prop::collection::vec(
            prop::sample::select(vec![Step::Acquire, Step::Acquire, Step::Release, Step::Drain, Step::Revive]), 0..60)) {
            let backend = backend(1);
            let mut leases = Vec::new();
            let mut draining = false;
            for step in steps {
                match step {
                    Step::Acquire => {
                        let lease = backend.acquire();
                        prop_assert_eq!(lease.is_none(), draining);
                        leases.extend(lease);
                    }
                    Step::Release => drop(leases.pop()),
                    Step::Drain => { backend.drain(); draining = true }
                    Step::Revive => { backend.revive(); draining = false }
                }
                prop_assert_eq!(backend.leases(), u64::try_from(leases.len()).unwrap());
                prop_assert_eq!(backend.is_idle(), draining && leases.is_empty());
            }
        }
    }

    /// Once idle was seen on a draining backend nobody holds or gets a lease.
    #[test]
    fn idle_is_final_under_contention() {
        const THREADS: usize = 4;
        for _ in 0..200 {
            let backend = backend(1);
            let (stop, barrier) = (AtomicBool::new(false), Barrier::new(THREADS + 1));
            let (held, after_idle) = (AtomicU64::new(0), AtomicBool::new(false));
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        barrier.wait();
                        while !stop.load(Ordering::Acquire) {
                            let Some(lease) = backend.acquire() else { break };
                            held.fetch_add(1, Ordering::SeqCst);
                            assert!(!after_idle.load(Ordering::SeqCst), "a lease after idle");
                            held.fetch_sub(1, Ordering::SeqCst);
                            drop(lease);
                        }
                    });
                }
                barrier.wait();
                std::thread::yield_now();
                backend.drain();
                while !backend.is_idle() {
                    std::hint::spin_loop();
                }
                after_idle.store(true, Ordering::SeqCst);
                assert_eq!(held.load(Ordering::SeqCst), 0);
                stop.store(true, Ordering::Release);
            });
        }
    }
}
