//! Tables of routes that can be read back: tests walk them, so that no new address is forgotten.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use http::Method;

/// One method of one path, its parameters in braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub method: Method,
    pub path: &'static str,
}

#[derive(Debug)]
pub(crate) struct Table<S = ()> {
    router: Router<S>,
    entries: Vec<Entry>,
}

impl<S: Clone + Send + Sync + 'static> Table<S> {
    pub(crate) fn new() -> Self {
        Self { router: Router::new(), entries: Vec::new() }
    }

    fn on<T: 'static>(
        mut self,
        (filter, method): (MethodFilter, Method),
        path: &'static str,
        handler: impl Handler<T, S>,
    ) -> Self {
        self.router = self.router.route(path, on(filter, handler));
        self.entries.push(Entry { method, path });
        self
    }

    pub(crate) fn get<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Self {
        self.on((MethodFilter::GET, Method::GET), path, handler)
    }

    pub(crate) fn post<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Self {
        self.on((MethodFilter::POST, Method::POST), path, handler)
    }

    pub(crate) fn put<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Self {
        self.on((MethodFilter::PUT, Method::PUT), path, handler)
    }

    pub(crate) fn patch<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Self {
        self.on((MethodFilter::PATCH, Method::PATCH), path, handler)
    }

    /// Bodies of more bytes than that are refused.
    pub(crate) fn limited(mut self, bytes_max: usize) -> Self {
        self.router = self.router.layer(DefaultBodyLimit::max(bytes_max));
        self
    }

    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.entries.extend(other.entries);
        self
    }

    pub(crate) fn router(self) -> Router<S> {
        self.router
    }

    pub(crate) fn entries(self) -> Vec<Entry> {
        self.entries
    }
}
