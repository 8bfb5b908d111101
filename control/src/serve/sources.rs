//! How many connections one source may have open: nobody alone takes every place.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limit::Source;

/// A tenth of all places: a large fleet behind one address fits in, and one machine cannot shut the door for the others.
const CONNECTIONS_PER_SOURCE_MAX: u32 = 2_000;

#[derive(Debug, Clone, Default)]
pub(super) struct Sources {
    /// Of those who have one at least: bounded by the places there are.
    open: Arc<Mutex<HashMap<Source, u32>>>,
}

/// Counted until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Option<(Sources, Source)>,
}

impl Sources {
    /// `is_shared`: a proxy, whose callers are many. `None`: the source has as many as it may.
    pub(super) fn take(&self, address: IpAddr, is_shared: bool) -> Option<Share> {
        if is_shared {
            return Some(Share { of: None });
        }
        let source = Source::of(address);
        let mut open = self.open();
        let count = open.entry(source).or_insert(0);
        if *count >= CONNECTIONS_PER_SOURCE_MAX {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Share { of: Some((self.clone(), source)) })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Source, u32>> {
        // A panic while it was held left whole numbers.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some((sources, source)) = &self.of else { return };
        let mut open = sources.open();
        if let Some(count) = open.get_mut(source) {
            *count -= 1;
            if *count == 0 {
                open.remove(source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_leaves_places_for_others() {
        let (sources, greedy, other) = (Sources::default(), [192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let mut held: Vec<Share> =
            (0..CONNECTIONS_PER_SOURCE_MAX).filter_map(|_| sources.take(greedy, false)).collect();
        assert_eq!(held.len(), 2_000);
        assert!(sources.take(greedy, false).is_none());
        assert!(sources.take(other, false).is_some() && sources.take(greedy, true).is_some());
        held.pop();
        assert!(sources.take(greedy, false).is_some());
        held.clear();
        assert!(sources.open().is_empty(), "nothing is kept of who has gone");
    }
}
