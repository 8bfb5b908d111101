//! Requests against a real folder, without a network.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use tempfile::TempDir;

use super::answer::answer;
use super::folder::Folder;

const SECRET: &str = "outside the site";

/// Headers asked with; status, body and Content-Range of the answer.
type Case<'a> = (&'a [(&'a str, &'a str)], u16, &'a str, &'a str);

struct Site {
    dir: TempDir,
    fallback: Option<&'static str>,
}

impl Site {
    /// `site/` is served; beside it lies what must not be.
    fn new(fallback: Option<&'static str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("secret.txt", SECRET);
        write("site/index.html", "<p>home");
        write("site/app.3f2a1b9c.js", "0123456789");
        write("site/style.css", "plain");
        write("site/style.css.br", "brotli");
        write("site/style.css.gz", "gzip");
        write("site/docs/index.html", "<p>docs");
        write("site/empty/.keep", "");
        write("site/.env", SECRET);
        write("site/.git/config", SECRET);
        write("site/.well-known/security.txt", "public");
        write("site/with space/a.txt", "spaced");
        let link = |to: &str, from: &str| symlink(to, dir.path().join("site").join(from)).unwrap();
        link("../secret.txt", "out.txt");
        link("..", "up");
        link("/etc", "etc");
        link("/proc/self/environ", "environ");
        link("docs/index.html", "inside.html");
        link("loop", "loop");
        nix::unistd::mkfifo(&dir.path().join("site/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self { dir, fallback }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let folder = Folder::at(&self.path("site"), self.fallback.map(PathBuf::from)).unwrap();
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(answer(Arc::new(folder), request.body(Body::empty()).unwrap()).await).await
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", path, headers).await
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: String,
}

impl Answer {
    async fn of(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        Self { status: parts.status.as_u16(), headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

#[tokio::test]
async fn nothing_outside_the_folder_and_nothing_hidden_is_served() {
    let site = Site::new(None);
    for path in [
        "/secret.txt",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/..%5csecret.txt",
        "/docs/../../secret.txt",
        "/docs/%2e%2e/%2e%2e/secret.txt",
        "/%252e%252e/secret.txt",
        "//secret.txt",
        "/out.txt",
        "/up/secret.txt",
        "/up/site/index.html",
        "/etc/passwd",
        "/etc/hostname",
        "/environ",
        "/loop",
        "/pipe",
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/.git/",
        "/docs/.",
        "/index.html%00.txt",
        "/index.html/",
        "/style.css/x",
        "/empty/",
        "/empty",
        "/nothing",
        &format!("/{}", "a".repeat(300)),
        &format!("/{}x", "a/".repeat(3_000)),
    ] {
        let answer = site.get(path, &[]).await;
        assert_eq!((answer.status, answer.body.as_str()), (404, "not found\n"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}

#[tokio::test]
async fn files_folders_and_links_within_are_served() {
    let site = Site::new(None);
    for (path, body) in [
        ("/", "<p>home"),
        ("/index.html", "<p>home"),
        ("/docs/", "<p>docs"),
        ("/inside.html", "<p>docs"),
        ("/with%20space/a.txt?v=2", "spaced"),
        ("/.well-known/security.txt", "public"),
    ] {
        let answer = site.get(path, &[]).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{path}");
        assert_eq!(answer.header("cache-control"), "no-cache", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("accept-ranges"), "bytes");
    }
    let folder = site.get("/docs?q=1", &[]).await;
    assert_eq!((folder.status, folder.header("location")), (301, "./docs/?q=1"));
    let hashed = site.get("/app.3f2a1b9c.js", &[]).await;
    assert_eq!(hashed.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(hashed.header("content-type"), "text/javascript; charset=utf-8");
    let head = site.ask("HEAD", "/app.3f2a1b9c.js", &[("range", "bytes=0-1")]).await;
    assert_eq!((head.status, head.body.as_str(), head.header("content-length")), (200, "", "10"));
    let posted = site.ask("POST", "/", &[]).await;
    assert_eq!((posted.status, posted.header("allow")), (405, "GET, HEAD"));
}

#[tokio::test]
async fn ranges_and_conditions() {
    let site = Site::new(None);
    let path = "/app.3f2a1b9c.js";
    let whole = site.get(path, &[]).await;
    let (tag, date) = (whole.header("etag").to_owned(), whole.header("last-modified").to_owned());
    assert!(tag.starts_with('"') && date.ends_with("GMT"), "{whole:?}");
    let cases: [Case<'_>; 10] = [
        (&[("range", "bytes=2-4")], 206, "234", "bytes 2-4/10"),
        (&[("range", "bytes=-3")], 206, "789", "bytes 7-9/10"),
        (&[("range", "bytes=8-")], 206, "89", "bytes 8-9/10"),
        (&[("range", "bytes=10-")], 416, "", "bytes */10"),
        (&[("range", "bytes=0-1,4-5")], 200, "0123456789", ""),
        (&[("range", "bytes=2-4"), ("if-range", &tag)], 206, "234", "bytes 2-4/10"),
        (&[("range", "bytes=2-4"), ("if-range", "\"other\"")], 200, "0123456789", ""),
        (&[("if-none-match", &tag)], 304, "", ""),
        (&[("if-modified-since", &date)], 304, "", ""),
        (&[("if-none-match", "\"other\""), ("if-modified-since", &date)], 200, "0123456789", ""),
    ];
    for (headers, status, body, range) in cases {
        let answer = site.get(path, headers).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{headers:?}");
        assert_eq!(answer.header("content-range"), range, "{headers:?}");
        assert_eq!(answer.header("etag"), if status == 416 { "" } else { &tag }, "{headers:?}");
    }
    assert_eq!(site.get(path, &[("if-match", "\"other\"")]).await.status, 412);
}

#[tokio::test]
async fn what_the_build_compressed_goes_to_those_who_take_it() {
    let site = Site::new(None);
    let plain = site.get("/style.css", &[]).await;
    let mut tags = vec![plain.header("etag").to_owned()];
    assert_eq!(
        (plain.body.as_str(), plain.header("content-encoding"), plain.header("vary")),
        ("plain", "", "accept-encoding")
    );
    for (accepts, body, coding) in [("gzip, br", "brotli", "br"), ("gzip", "gzip", "gzip"), ("br;q=0", "plain", "")] {
        let answer = site.get("/style.css", &[("accept-encoding", accepts)]).await;
        assert_eq!((answer.body.as_str(), answer.header("content-encoding")), (body, coding));
        assert_eq!(answer.header("content-type"), "text/css; charset=utf-8");
        tags.push(answer.header("etag").to_owned());
    }
    assert_ne!(tags[0], tags[1]);
    assert_ne!(tags[1], tags[2]);
    assert_eq!(tags[0], tags[3]);
}

#[tokio::test]
async fn a_fallback_answers_what_no_file_matches_but_nothing_hidden() {
    let site = Site::new(Some("index.html"));
    for path in ["/orders/7", "/nothing.js", "/empty/", "/out.txt"] {
        let answer = site.get(path, &[]).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "<p>home"), "{path}");
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(answer.header("cache-control"), "no-cache");
    }
    assert_eq!(site.get("/docs/", &[]).await.body, "<p>docs");
    assert_eq!(site.get("/.env", &[]).await.status, 404);
    assert_eq!(Site::new(Some("missing.html")).get("/x", &[]).await.status, 404);
}

#[test]
fn a_root_outside_the_release_is_refused() {
    for root in ["..", "/etc", "no-such-folder"] {
        assert!(Folder::open(Path::new(root), None).is_err(), "{root}");
    }
    assert!(Folder::open(Path::new("."), None).is_ok());
}
