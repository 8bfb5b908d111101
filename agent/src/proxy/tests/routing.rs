use agentd_protocol::edge::Absent;

use super::rig::*;

#[tokio::test]
async fn requests_go_by_host_and_path() {
    let (web, api, other) = (named("web").await, named("api").await, named("other").await);
    let mut rig = Rig::start(limits()).await;
    rig.apply(
        vec![route(None, "/", "web"), route(None, "/api", "api"), route(Some("b.test"), "/", "other")],
        vec![
            service("web", &[(1, web)], Absent::Starting),
            service("api", &[(2, api)], Absent::Starting),
            service("other", &[(3, other)], Absent::Starting),
        ],
    );
    for (path, name) in [("/", "web"), ("/api", "api"), ("/api/x?q=1", "api"), ("/apix", "web")] {
        assert_eq!(rig.get(path).await.text(), name, "{path}");
    }
    let response = rig.ask("GET /api HTTP/1.1\r\nHost: B.test.:80\r\n\r\n").await;
    assert_eq!(response.text(), "other");
    let response = rig.ask("GET http://b.test/x?y HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(response.text(), "other", "the target's authority replaces Host");
}

#[tokio::test]
async fn our_own_answers() {
    let mut rig = Rig::start(limits()).await;
    let response = rig.get("/").await;
    assert_eq!((response.status, response.header("x-agentd-reason")), (503, Some("not-ready")));
    rig.apply(
        vec![route(None, "/down", "down"), route(None, "/gone", "gone")],
        vec![service("down", &[], Absent::Failing), service("gone", &[(1, refusing().await)], Absent::Starting)],
    );
    let mut client = rig.connect().await;
    for (path, status, reason, retry) in [
        ("/", 404, "no-route", None),
        ("/down/x", 503, "failing", Some("30")),
        ("/gone", 502, "backend-unreachable", None),
    ] {
        let response = client.ask(get(path)).await;
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.header("x-agentd-reason"), Some(reason), "{path}");
        assert_eq!(response.header("retry-after"), retry, "{path}");
        assert_eq!(response.header("server"), None);
        assert!(!response.text().contains("127.0.0.1"), "{}", response.text());
    }
    assert_eq!(rig.unreachable.try_recv().unwrap(), key(1));
}

#[tokio::test]
async fn our_pages_suit_the_client_and_keep_the_connection() {
    let mut rig = Rig::start(limits()).await;
    rig.apply(vec![], vec![]);
    let mut client = rig.connect().await;
    let page = client.ask("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n").await;
    assert!(page.text().starts_with("<!doctype html>"));
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    assert!(header(&head, "content-length").is_some_and(|length| length != "0"), "{head}");
    let healthy = client.ask(get("/-/healthy")).await;
    assert_eq!((healthy.status, healthy.text().as_str()), (200, "ok\n"));
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let (address, received) = recording("web").await;
    let rig = Rig::to(&[address]).await;
    let mut client = rig.connect().await;
    for round in 0..5 {
        let response = client.ask(get(&format!("/{round}"))).await;
        assert_eq!(response.status, 200);
        assert_ne!(response.header("connection"), Some("close"));
    }
    let response = client.ask("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(response.status, 200);
    let received = received.lock().unwrap();
    assert_eq!(received.len(), 6);
    assert_eq!(received[5].1, b"hello");
}

#[tokio::test]
async fn a_prefix_is_stripped_when_asked() {
    let (address, received) = recording("web").await;
    let mut rig = Rig::start(limits()).await;
    let mut stripped = route(None, "/api", "web");
    stripped.strip_prefix = true;
    rig.apply(vec![stripped], vec![service("web", &[(1, address)], Absent::Starting)]);
    for (path, seen) in [("/api", "/"), ("/api?q", "/?q"), ("/api/x/y?q=1", "/x/y?q=1")] {
        rig.get(path).await;
        let (head, _) = received.lock().unwrap().pop().unwrap();
        assert!(head.starts_with(&format!("GET {seen} HTTP/1.1\r\n")), "{path}: {head}");
    }
}

#[tokio::test]
async fn a_post_moves_on_when_a_connection_is_refused() {
    let (address, received) = recording("web").await;
    let mut rig = Rig::to(&[refusing().await, address, refusing().await]).await;
    for round in 0..8 {
        let body = format!("round {round}");
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let response = rig.ask(request).await;
        assert_eq!((response.status, response.text().as_str()), (200, "web"), "{round}");
    }
    assert_eq!(received.lock().unwrap().len(), 8);
    assert_ne!(rig.unreachable.try_recv().unwrap(), key(1));
}

#[tokio::test]
async fn a_broken_backend_is_bad_gateway_and_a_silent_one_a_timeout() {
    let broken = backend(async |mut client| {
        client.head().await;
    })
    .await;
    let silent = backend(async |mut client| while client.head().await.is_some() {}).await;
    let mut rig =
        Rig::start(crate::proxy::Limits { backend_timeout: std::time::Duration::from_millis(300), ..limits() }).await;
    rig.apply(
        vec![route(None, "/broken", "broken"), route(None, "/silent", "silent")],
        vec![service("broken", &[(1, broken)], Absent::Starting), service("silent", &[(2, silent)], Absent::Starting)],
    );
    let response = rig.get("/broken").await;
    assert_eq!((response.status, response.header("x-agentd-reason")), (502, Some("backend-failed")));
    let response = rig.get("/silent").await;
    assert_eq!((response.status, response.header("x-agentd-reason")), (504, Some("backend-timeout")));
}

/// The backend keeps a connection open and drops it on the second request, as one that just timed out would.
#[tokio::test]
async fn a_stale_connection_costs_a_get_nothing_and_fails_a_post() {
    let address = backend(async |mut client| {
        client.head().await;
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        client.head().await;
    })
    .await;
    let rig = Rig::to(&[address]).await;
    for _ in 0..4 {
        assert_eq!(rig.get("/").await.status, 200);
    }
    let response = rig.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!((response.status, response.header("x-agentd-reason")), (502, Some("backend-failed")));
}

#[tokio::test]
async fn load_spreads_over_the_backends() {
    let (one, two) = (recording("one").await, recording("two").await);
    let rig = Rig::to(&[one.0, two.0]).await;
    for _ in 0..60 {
        assert_eq!(rig.get("/").await.status, 200);
    }
    let counts = [&one.1, &two.1].map(|received| received.lock().unwrap().len());
    assert_eq!(counts.iter().sum::<usize>(), 60);
    assert!(counts.iter().all(|count| *count >= 8), "{counts:?}");
}
