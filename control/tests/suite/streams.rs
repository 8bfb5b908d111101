//! Streams as their readers see them: they end with what they were opened by and with the server, and go on where they
//! broke.

use std::time::{Duration, Instant};

use agentd_protocol::api::Severity;
use reqwest::{Method, Response, StatusCode};

use crate::server::{CAP, Host, Server, document};
use crate::visitor::Visitor;

const STREAMS: [&str; 2] = ["/live", "/api/v1/events/stream?after=0"];
/// Of one account (auth/streams.rs).
const ACCOUNT_MAX: usize = 32;

/// Reads on until the text is there.
async fn read_until(answer: &mut Response, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let chunk = answer.chunk().await.unwrap().unwrap_or_else(|| panic!("it ended before {wanted:?}: {text}"));
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    text
}

/// Whether it comes to an end, and to one that was meant: a connection that is cut is an error.
async fn ends(mut answer: Response) {
    while answer.chunk().await.unwrap().is_some() {}
}

async fn with_events(server: &Server, severities: &[Severity]) -> Host {
    server.stack("shop");
    server.publish("shop", &document(&[("api", '1', "")]));
    let mut host = Host::join(server, &server.join("shop"), "web-1").await;
    tell(&mut host, severities).await;
    host
}

async fn tell(host: &mut Host, severities: &[Severity]) {
    let mut events = Vec::new();
    for severity in severities {
        let mut event = host.event("deploy.done", "done");
        event.severity = *severity;
        events.push(event);
    }
    host.report(events).await;
}

fn ids(text: &str) -> Vec<u64> {
    text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect()
}

#[tokio::test]
async fn a_stream_ends_with_the_session_or_token_it_was_opened_with() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    with_events(&server, &[Severity::Info]).await;
    let owner = Visitor::set_up(&server).await;
    let other = owner.log_in().await;
    let token = server.cli(&["user", "token", "create", "ci"]);
    let stranger = Visitor { http: owner.http.clone(), url: owner.url.clone(), cookie: String::new() };
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    let by_token = |path| stranger.ask(Method::GET, path).header("authorization", &bearer).send();
    let (mut kept, mut held) = (Vec::new(), Vec::new());
    for path in STREAMS {
        kept.push(owner.get(path).await);
        held.push(other.get(path).await);
    }
    held.push(by_token(STREAMS[1]).await.unwrap());
    for stream in kept.iter_mut().chain(&mut held) {
        assert_eq!(stream.status(), StatusCode::OK);
        read_until(stream, "\n\n").await;
    }
    assert_eq!(other.post("/logout", &[]).await.status(), StatusCode::SEE_OTHER);
    server.cli(&["user", "token", "revoke", token["row"]["id"].as_str().unwrap()]);
    for stream in held {
        ends(stream).await;
    }
    assert_eq!(by_token(STREAMS[1]).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(stranger.get(STREAMS[1]).await.status(), StatusCode::UNAUTHORIZED);
    // The other session goes on, and hears of what comes.
    assert_eq!(owner.post("/stacks", &[("name", "intranet")]).await.status(), StatusCode::SEE_OTHER);
    read_until(&mut kept[0], "event: changed").await;
    server.cli(&["user", "logout-all"]);
    for stream in kept {
        ends(stream).await;
    }
}

#[tokio::test]
async fn streams_end_well_when_the_server_does() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    with_events(&server, &[Severity::Info]).await;
    let owner = Visitor::set_up(&server).await;
    let mut open = Vec::new();
    for path in STREAMS {
        let mut stream = owner.get(path).await;
        read_until(&mut stream, "\n\n").await;
        open.push(stream);
    }
    assert!(server.stop());
    for stream in open {
        ends(stream).await;
    }
}

#[tokio::test]
async fn a_reader_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut host = with_events(&server, &[Severity::Info, Severity::Error, Severity::Info, Severity::Error]).await;
    let owner = Visitor::set_up(&server).await;
    let mut all = owner.get("/api/v1/events/stream?after=0").await;
    let mut text = String::new();
    while ids(&text).len() < 4 {
        text.push_str(&read_until(&mut all, "\n\n").await);
    }
    let told = ids(&text);
    let again = |after: u64, query: &'static str| {
        owner
            .ask(Method::GET, &format!("/api/v1/events/stream?{query}"))
            .header("last-event-id", after.to_string())
            .send()
    };
    // The header counts, whatever the address says; the filter holds.
    let mut errors = again(told[1], "after=0&severity=error").await.unwrap();
    let text = read_until(&mut errors, "\n\n").await;
    assert_eq!(ids(&text), [told[3]]);
    // A cursor of a journal that is lost waits for what comes, not for what never does.
    let mut lost = again(u64::MAX / 2, "").await.unwrap();
    let mut fresh = owner.get("/api/v1/events/stream").await;
    tell(&mut host, &[Severity::Info]).await;
    for stream in [&mut lost, &mut fresh] {
        let text = read_until(stream, "\n\n").await;
        assert_eq!(ids(&text).len(), 1, "{text}");
        assert!(ids(&text)[0] > told[3]);
    }
}

#[tokio::test]
async fn an_account_has_so_many_streams_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let owner = Visitor::set_up(&server).await;
    let other = owner.log_in().await;
    let mut open = Vec::new();
    for number in 0..ACCOUNT_MAX {
        let stream = [&owner, &other][number % 2].get("/live").await;
        assert_eq!(stream.status(), StatusCode::OK, "{number}");
        open.push(stream);
    }
    let refused = owner.get("/live").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(owner.get("/").await.status(), StatusCode::OK, "pages are shown");
    open.pop();
    let end = Instant::now() + CAP;
    while owner.get("/live").await.status() != StatusCode::OK {
        assert!(Instant::now() < end, "the place of a reader who went is not given back");
        tokio::time::sleep(Duration::from_millis(50)).await; // poll: whether the server has seen it go
    }
}
