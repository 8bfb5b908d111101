//! `GET /install.sh` and `/packages/<file>`: what a fresh host needs to join, from the home's own folder.

use std::path::Path;

use axum::Router;
use tower_http::services::{ServeDir, ServeFile};

pub(super) fn router(dir: &Path) -> Router {
    let files = ServeDir::new(dir).append_index_html_on_directories(false);
    Router::new().route_service("/install.sh", ServeFile::new(dir.join("install.sh"))).nest_service("/packages", files)
}
