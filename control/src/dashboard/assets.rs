//! Stylesheet, scripts and icon, carried in the program. The script of others is htmx as its package has it (0BSD,
//! assets/vendor/); a test holds it to its SHA-256.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};

use agentd_protocol::digest::Digest;

const HTMX: &[u8] = include_bytes!("../../assets/vendor/htmx-2.0.11.min.js");

const FILES: &[(&str, &str, &[u8])] = &[
    ("app.css", "text/css; charset=utf-8", include_bytes!("../../assets/app.css")),
    ("live.js", "text/javascript; charset=utf-8", include_bytes!("../../assets/live.js")),
    ("htmx.js", "text/javascript; charset=utf-8", HTMX),
    ("icon.svg", "image/svg+xml", include_bytes!("../../assets/icon.svg")),
];

/// Asked again with every page, and answered in a few bytes while it is the same.
pub(crate) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some((_, media, bytes)) = FILES.iter().find(|(known, ..)| *known == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let etag = format!("\"{}\"", &Digest::of(bytes).to_string()[..32]);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|sent| sent.as_bytes() == etag.as_bytes());
    let head = [
        (header::ETAG, etag),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::CONTENT_TYPE, (*media).to_owned()),
    ];
    if known { (StatusCode::NOT_MODIFIED, head).into_response() } else { (head, *bytes).into_response() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_of_others_is_as_its_package_has_it() {
        let expected = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717";
        assert_eq!(Digest::of(HTMX).to_string(), expected, "htmx.org 2.0.11, dist/htmx.min.js");
    }
}
