//! Requests that wait while their service is replaced in place. The body stays in the socket: a held request costs its
//! connection and nothing more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub struct HoldLimits {
    /// From the first look at the missing backend to our 503.
    pub timeout: Duration,
    /// Per service.
    pub requests_max: usize,
}

/// Requests held for one service; the same counter in every snapshot that has the service.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Arc<AtomicUsize>);

/// One held request; dropping it frees its place.
#[derive(Debug)]
pub(super) struct Place(Held);

impl Held {
    /// `None` when `requests_max` are waiting.
    pub(super) fn wait(&self, requests_max: usize) -> Option<Place> {
        let place = Place(self.clone());
        let before = self.0.fetch_add(1, Ordering::AcqRel);
        (before < requests_max).then_some(place)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let held = Held::default();
        let places: Vec<_> = (0..2).map(|_| held.wait(2).unwrap()).collect();
        assert!(held.wait(2).is_none());
        assert_eq!(held.count(), 2, "a refused wait takes no place");
        drop(places);
        assert!(held.wait(2).is_some());
    }
}
