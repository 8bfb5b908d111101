//! `GET /install.sh` and `/packages/<file>`: what a fresh host needs to join, from the home's own folder.

use std::path::{Path, PathBuf};

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header;
use tower_http::services::ServeDir;

use crate::core::Error;

/// Where the folder has none of its own.
const INSTALLER: &str = include_str!("../../../packaging/install.sh");
/// The line of it that a server fills in.
const FROM: &str = "\n    from=''\n";

pub(super) fn router(dir: &Path, public_url: &str) -> Router {
    let files = ServeDir::new(dir).append_index_html_on_directories(false);
    let (own, url) = (dir.join("install.sh"), public_url.to_owned());
    let installer = get(move || answer(own.clone(), url.clone()));
    Router::new().route("/install.sh", installer).nest_service("/packages", files)
}

async fn answer(own: PathBuf, url: String) -> Result<Response, Error> {
    let text = match tokio::fs::read_to_string(&own).await {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => INSTALLER.to_owned(),
        Err(error) => {
            tracing::error!(%error, path = %own.display(), "the installer cannot be read");
            return Err(Error::not_found("install.sh"));
        }
    };
    let headers = [(header::CONTENT_TYPE, "text/x-shellscript; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, from(&text, &url)).into_response())
}

/// The script knows who handed it out.
fn from(script: &str, url: &str) -> String {
    let quoted = url.replace('\'', r"'\''");
    script.replacen(FROM, &format!("\n    from='{quoted}'\n"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installer_learns_where_it_came_from() {
        assert_eq!(INSTALLER.matches(FROM).count(), 1, "install.sh and this file have grown apart");
        let script = from(INSTALLER, "https://control.example.com/it's");
        assert!(script.contains("\n    from='https://control.example.com/it'\\''s'\n"));
    }
}
