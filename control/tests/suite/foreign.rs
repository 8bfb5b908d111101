//! Other sites in the browser of somebody who is logged in (CSRF): each address that changes something, read from the
//! tables of routes, called in every way by which a page elsewhere could call it.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};

use crate::server::{Server, document};
use crate::visitor::{FORM, Visitor};

/// What a form of another site can send without being asked first (Fetch, "CORS-safelisted"), and what it cannot.
const MEDIA: [&str; 4] = [FORM, "multipart/form-data; boundary=x", "text/plain", "application/json"];
/// Headers by which a browser says who is behind a request.
const FOREIGN: [&[(&str, &str)]; 6] = [
    &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")],
    &[("sec-fetch-site", "same-site"), ("origin", "http://127.0.0.1:1")],
    &[("sec-fetch-site", "cross-site")],
    &[("origin", "https://evil.example")],
    &[("origin", "null")],
    // The scheme's and the port's own neighbour, without fetch metadata.
    &[("origin", "http://127.0.0.1:1")],
];

struct Call {
    method: Method,
    path: String,
}

fn mutating(stack: &str) -> Vec<Call> {
    let api = agentd_control::operator_api::entries().into_iter();
    let api = api.map(|entry| (entry.method, format!("/api/v1{}", entry.path)));
    let rest = agentd_control::dashboard::entries().into_iter().chain(agentd_control::auth::entries());
    let all = api.chain(rest.map(|entry| (entry.method, entry.path.to_owned())));
    let known = [
        ("{stack}", stack),
        ("{host}", "hst_abcdef"),
        ("{service}", "api"),
        ("{version}", "1"),
        ("{token}", "tok_abcdef"),
        ("{name}", "owner"),
        ("{id}", "apt_0"),
    ];
    let fill = |path: String| known.iter().fold(path, |path, (name, value)| path.replace(name, value));
    let calls = all.filter(|(method, _)| *method != Method::GET);
    calls.map(|(method, path)| Call { method, path: fill(path) }).collect()
}

/// What would be done, were it let in.
fn body(media: &str) -> String {
    if media == FORM {
        return "name=evil&reason=evil&revision=1&format=toml&text=&from=1&code=A&labels=a%3Db&note=evil&scope=write&days=1".to_owned();
    }
    r#"{"name": "evil", "reason": "evil"}"#.to_owned()
}

#[tokio::test]
async fn no_other_site_changes_anything() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let stack = server.stack("shop");
    server.publish("shop", &document(&[("api", '1', "")]));
    let owner = Visitor::set_up(&server).await;
    let nobody = Visitor { http: owner.http.clone(), url: owner.url.clone(), cookie: String::new() };
    let state = || {
        (
            server.cli(&["audit", "--limit", "500"]),
            server.cli(&["stack", "show", "shop"])["overview"]["version"].clone(),
        )
    };
    let before = state();
    let calls = mutating(&stack);
    assert!(calls.len() > 30, "{} calls", calls.len());
    for Call { method, path } in &calls {
        assert!(!path.contains('{'), "say here what stands for the new parameter of {path}");
        for media in MEDIA {
            for headers in FOREIGN {
                for visitor in [&owner, &nobody] {
                    let mut request = visitor.ask(method.clone(), path).header("content-type", media).body(body(media));
                    for (name, value) in headers {
                        request = request.header(*name, *value);
                    }
                    let answer = request.send().await.unwrap();
                    assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{method} {path} {media} {headers:?}");
                    assert!(answer.headers().get("access-control-allow-origin").is_none(), "{path}");
                    assert!(answer.headers().get("set-cookie").is_none(), "{path}");
                }
            }
        }
        // Asked first, as scripts of other sites are: nothing says that they may.
        let asked = owner.ask(Method::OPTIONS, path).header("origin", "https://evil.example");
        let asked = asked.header("access-control-request-method", method.as_str()).send().await.unwrap();
        let allows = asked.headers().keys().any(|name| name.as_str().starts_with("access-control-allow"));
        assert!(!allows, "{path}: {}", asked.status());
    }
    assert_eq!(state(), before, "something was done");
}

/// A link, an image or a form of another site leads here by GET, and the cookie comes along with links.
#[tokio::test]
async fn looking_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let stack = server.stack("shop");
    server.publish("shop", &document(&[("api", '1', "")]));
    let owner = Visitor::set_up(&server).await;
    let before = server.cli(&["audit", "--limit", "500"]);
    let calls = mutating(&stack);
    let shown: BTreeSet<String> = agentd_control::dashboard::entries()
        .into_iter()
        .chain(agentd_control::auth::entries())
        .map(|entry| (entry.method, entry.path.to_owned()))
        .chain(agentd_control::operator_api::entries().into_iter().map(|e| (e.method, format!("/api/v1{}", e.path))))
        .filter(|(method, _)| *method == Method::GET)
        .map(|(_, path)| path.replace("{stack}", &stack).replace("{host}", "hst_abcdef").replace("{version}", "1"))
        .collect();
    for Call { path, .. } in &calls {
        for headers in [&[("sec-fetch-site", "cross-site")][..], &[("origin", "https://evil.example")][..]] {
            let mut request = owner.ask(Method::GET, &format!("{path}?{}", body(FORM)));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let status = request.send().await.unwrap().status();
            let is_shown = shown.contains(path);
            assert!(
                is_shown || [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_FOUND].contains(&status),
                "{path}: {status}"
            );
        }
    }
    assert_eq!(server.cli(&["audit", "--limit", "500"]), before, "something was done by a GET");
}
