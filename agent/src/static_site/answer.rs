//! From a request to its answer.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, LAST_MODIFIED, LOCATION, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use mime_guess::Mime;
use tower_http::services::ServeFile;

use super::ask::asked;
use super::coding::accepted;
use super::condition::{self, Verdict};
use super::folder::{File, Folder, Found, Role};
use crate::lifecycle;

/// The name changes with the content, so the content never does (RFC 8246): a year, the longest that caches honour.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Anything else may be another file with the next deploy, and pages and their styles must change together: kept, but
/// asked about each time, which costs a 304.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");
/// Characters of a content hash in a file's name; what bundlers write has 8 to 64.
const HASH_CHARS: std::ops::RangeInclusive<usize> = 8..=64;

pub(super) async fn answer(folder: Arc<Folder>, request: Request) -> Response {
    // A body means nothing to a file.
    let (head, _) = request.into_parts();
    let mut response = match head.method {
        Method::GET | Method::HEAD => found(folder, &head).await,
        _ => {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD: these are files\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refused
        }
    };
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn found(folder: Arc<Folder>, request: &Parts) -> Response {
    const NOT_FOUND: &str = "not found\n";
    let Some(asked) = asked(request.uri.path()) else { return plain(StatusCode::NOT_FOUND, NOT_FOUND) };
    let codings = accepted(&request.headers);
    let looked = lifecycle::spawn_blocking("look-up", move || folder.find(&asked, &codings)).await;
    match looked.map_err(std::io::Error::from).flatten() {
        Ok(Found::File(file)) => match send(&file, request).await {
            Ok(response) => response,
            Err(error) => broken(request, &error),
        },
        Ok(Found::Folder) => redirect(&request.uri),
        Ok(Found::Nothing) => plain(StatusCode::NOT_FOUND, NOT_FOUND),
        Err(error) => broken(request, &error),
    }
}

async fn send(file: &File, request: &Parts) -> std::io::Result<Response> {
    let tag = tag(file);
    let headers = &request.headers;
    let mut response = match condition::by_tag(headers, &tag) {
        Verdict::Failed => return Ok(plain(StatusCode::PRECONDITION_FAILED, "the file is another one by now\n")),
        Verdict::NotModified => empty(StatusCode::NOT_MODIFIED),
        Verdict::Send => {
            let mut inner = http::Request::new(Body::empty());
            inner.method_mut().clone_from(&request.method);
            *inner.headers_mut() = condition::left(&request.method, headers, &tag);
            // The file that was found, by its descriptor: no path is resolved a second time.
            let by_descriptor = format!("/proc/self/fd/{}", file.fd.as_raw_fd());
            ServeFile::new_with_mime(by_descriptor, &mime(&file.path)).try_call(inner).await?.map(Body::new)
        }
    };
    if condition::by_date(headers, response.headers().get(LAST_MODIFIED)) == Verdict::NotModified {
        response = empty(StatusCode::NOT_MODIFIED);
    }
    match response.status() {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED => describe(file, &tag, &mut response),
        StatusCode::RANGE_NOT_SATISFIABLE => {
            // Whatever it says of the file's type is not said of an empty body.
            response.headers_mut().remove(CONTENT_TYPE);
        }
        _ => {}
    }
    Ok(response)
}

fn describe(file: &File, tag: &str, response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(ETAG, HeaderValue::try_from(tag).expect("a tag is of hexadecimal digits"));
    headers.insert(CACHE_CONTROL, caching(&file.path, file.role));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(coding) = file.coding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.token()));
    }
}

/// Strong: the files of a release do not change in place.
fn tag(file: &File) -> String {
    let coding = file.coding.map_or("", |coding| coding.extension().trim_start_matches('.'));
    let dash = if coding.is_empty() { "" } else { "-" };
    format!("\"{:x}-{:x}{dash}{coding}\"", file.modified_ns, file.size)
}

fn mime(path: &Path) -> Mime {
    let guess = mime_guess::from_path(path).first_or_octet_stream();
    let has_charset = guess.get_param(mime_guess::mime::CHARSET).is_some();
    let with_charset = || format!("{guess}; charset=utf-8").parse().ok();
    let is_text = guess.type_() == mime_guess::mime::TEXT && !has_charset;
    Some(()).filter(|()| is_text).and_then(|()| with_charset()).unwrap_or(guess)
}

fn caching(path: &Path, role: Role) -> HeaderValue {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if role == Role::Asked && is_hashed(name) { IMMUTABLE } else { REVALIDATE }
}

/// `app.3f2a1b9c.js`, `app-3f2a1b9c.min.css`: a part of the name in front of the extension is a content hash.
/// Hexadecimal with letters and digits, so that neither a word nor a date is taken for one.
fn is_hashed(name: &str) -> bool {
    let Some((stem, extension)) = name.rsplit_once('.') else { return false };
    let is_page = matches!(extension.to_ascii_lowercase().as_str(), "html" | "htm" | "xhtml");
    let is_hash = |part: &str| {
        HASH_CHARS.contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_hexdigit())
            && part.bytes().any(|byte| byte.is_ascii_digit())
            && part.bytes().any(|byte| byte.is_ascii_alphabetic())
    };
    !is_page && stem.split(['.', '-', '_']).skip(1).any(is_hash)
}

/// To the same place with a slash. Relative, since a prefix may have been stripped on the way here.
fn redirect(uri: &Uri) -> Response {
    let name = uri.path().rsplit('/').next().unwrap_or_default();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = plain(StatusCode::MOVED_PERMANENTLY, "this is a folder: see with a final slash\n");
    // `./` keeps a name with a colon from being read as a scheme.
    if let Ok(location) = HeaderValue::try_from(format!("./{name}/{query}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn broken(request: &Parts, error: &std::io::Error) -> Response {
    tracing::error!(path = request.uri.path(), %error, "a file cannot be served");
    plain(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read; the log of the service says why\n")
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let fields: [(HeaderName, HeaderValue); 3] = [
        (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (CACHE_CONTROL, REVALIDATE),
        (CONTENT_LENGTH, HeaderValue::from(text.len())),
    ];
    response.headers_mut().extend(fields);
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_a_content_hash_are_kept_for_good() {
        for name in ["app.3f2a1b9c.js", "app-3F2A1B9C.css", "a_0123456789abcdef.woff2", "main.3f2a1b9c.chunk.js"] {
            assert!(is_hashed(name), "{name}");
        }
        for name in [
            "app.js",
            "3f2a1b9c.js",
            "app.deadbeef.js",
            "app.20240101.js",
            "app.3f2a1b9.js",
            "index.3f2a1b9c.html",
            "a",
        ] {
            assert!(!is_hashed(name), "{name}");
        }
        assert_eq!(caching(Path::new("x/app.3f2a1b9c.js"), Role::Fallback), REVALIDATE);
    }

    #[test]
    fn text_says_its_charset() {
        for (name, wanted) in [
            ("a.html", "text/html; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.txt", "text/plain; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.svg", "image/svg+xml"),
            ("a.wasm", "application/wasm"),
            ("a", "application/octet-stream"),
        ] {
            assert_eq!(mime(Path::new(name)).to_string(), wanted);
        }
    }
}
