use agentd_protocol::edge::{Absent, ForwardedBy};

use super::rig::*;

/// `web` is public, `inner` and `mail` are not: they have no route at all.
async fn rig() -> Rig {
    let (web, inner) = (named("web").await, named("inner").await);
    let mut rig = Rig::start(limits()).await;
    rig.apply(
        vec![route(None, "/web", "web"), route(Some("web.test"), "/", "web")],
        vec![
            service("web", &[(1, web)], Absent::Starting),
            service("inner", &[(2, inner)], Absent::Starting),
            service("mail", &[], Absent::NoPort),
        ],
    );
    rig
}

fn with_host(target: &str, host: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

#[tokio::test]
async fn no_host_target_or_path_leads_from_outside_to_a_name() {
    let rig = rig().await;
    let hosts = [
        "inner.svc.internal",
        "INNER.Svc.Internal",
        "inner.svc.internal.",
        "inner.svc.internal:8081",
        "inner.svc.internal.:80",
        "inner",
        "Inner:1",
    ];
    let paths = ["/", "/inner", "/inner/", "/%69nner", "/inner.svc.internal/x", "/?inner", "/-/healthy/inner"];
    for host in hosts {
        for path in paths {
            let (absolute, other) = (format!("http://{host}{path}"), "a.test");
            for request in [with_host(path, host), with_host(&absolute, other), with_host(&absolute, host)] {
                let answer = rig.ask(&request).await;
                assert_eq!((answer.status, answer.header("x-agentd-reason")), (404, Some("no-route")), "{request}");
            }
        }
        let by_path = rig.ask(with_host("/web/x", host)).await;
        assert_eq!(by_path.text(), "web", "{host} is any host from outside");
        let by_host = rig.ask(with_host(&format!("http://web.test{}", "/x"), host)).await;
        assert_eq!(by_host.text(), "web", "{host}: the target's authority replaces it");
        for path in ["/web/../inner", "/web/%2e%2e/inner", "//inner.svc.internal/"] {
            assert_eq!(rig.ask(with_host(path, host)).await.status, 400, "{host} {path}");
        }
    }
}

#[tokio::test]
async fn within_the_host_alone_decides() {
    let rig = rig().await;
    let mut client = rig.connect_within().await;
    for host in ["inner.svc.internal", "INNER.svc.internal.", "inner.svc.internal:8081", "inner", "inner.:99"] {
        for path in ["/", "/web", "/-/healthy", "/a/b?c=d", "/%69"] {
            assert_eq!(client.ask(with_host(path, host)).await.text(), "inner", "{host} {path}");
        }
    }
    let absolute = with_host("http://Inner.svc.internal:8081/web?x", "web.svc.internal");
    assert_eq!(client.ask(absolute).await.text(), "inner", "the target's authority replaces Host");
    assert_eq!(client.ask(with_host("/", "web.svc.internal")).await.text(), "web");
    for host in
        ["web.test", "a.test", "svc.internal", "x.inner.svc.internal", "inner.svc.internal.test", "127.0.0.1:8081"]
    {
        let answer = client.ask(with_host("/web", host)).await;
        assert_eq!((answer.status, answer.header("x-agentd-reason")), (404, Some("no-name")), "{host}");
        assert!(answer.text().contains(&format!("No service is named {host}.")), "{}", answer.text());
        assert!(answer.text().contains("internal listener"), "{}", answer.text());
    }
    let html = client.ask("GET / HTTP/1.1\r\nHost: a.test\r\nAccept: text/html\r\n\r\n").await;
    assert!(html.text().contains("<p>No service is named a.test."), "{}", html.text());
    let worker = client.ask(with_host("/", "mail")).await;
    assert_eq!((worker.status, worker.header("x-agentd-reason")), (503, Some("no-port")));
    let nameless = client.ask("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!((nameless.status, nameless.header("x-agentd-reason")), (404, Some("no-name")));
}

#[tokio::test]
async fn paths_arrive_whole_and_claims_are_replaced_within_too() {
    let (address, received) = recording("inner").await;
    let mut rig = Rig::start(limits()).await;
    let mut stripped = route(None, "/inner", "inner");
    stripped.strip_prefix = true;
    rig.apply(vec![stripped], vec![service("inner", &[(1, address)], Absent::Starting)]);
    let mut client = rig.connect_within().await;
    client.ask("GET /inner/x HTTP/1.1\r\nHost: inner.svc.internal\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n").await;
    let (head, _) = received.lock().unwrap().pop().unwrap();
    assert!(head.starts_with("GET /inner/x HTTP/1.1\r\n"), "a prefix is the external route's: {head}");
    assert_eq!(header(&head, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(header(&head, "x-forwarded-host"), Some("inner.svc.internal"));
}

#[tokio::test]
async fn a_request_from_within_is_held_during_a_replacement() {
    let address = named("inner").await;
    let mut rig = Rig::start(limits()).await;
    rig.apply(vec![], vec![service("inner", &[], Absent::Replacing)]);
    let mut client = rig.connect_within().await;
    client.send(with_host("/", "inner.svc.internal")).await;
    within("the request to be held", async {
        while rig.registry.table().load().services[0].held.count() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await; // poll: capped by `within`
        }
    })
    .await;
    rig.apply(vec![], vec![service("inner", &[(1, address)], Absent::Starting)]);
    assert_eq!(client.response().await.text(), "inner");
}

#[tokio::test]
async fn upgrades_events_and_second_tries_work_within_too() {
    let talkative = backend(async |mut client| {
        let head = client.head().await.unwrap();
        if header(&head, "upgrade").is_some() {
            client.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
            let sent = client.exactly(4).await.unwrap();
            client.send(sent).await;
        } else {
            client
                .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
            client.send("4\r\ntick\r\n").await;
            client.rest().await;
        }
    })
    .await;
    let mut rig = Rig::start(limits()).await;
    let backends = [(1, refusing().await), (2, talkative), (3, refusing().await)];
    rig.apply(vec![], vec![service("inner", &backends, Absent::Starting)]);
    let mut socket = rig.connect_within().await;
    let upgrade = "GET /ws HTTP/1.1\r\nHost: inner\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(socket.ask(upgrade).await.status, 101);
    socket.send("ping").await;
    assert_eq!(socket.exactly(4).await.unwrap(), b"ping");
    let mut events = rig.connect_within().await;
    events.send("GET /e HTTP/1.1\r\nHost: inner\r\nAccept: text/event-stream\r\n\r\n").await;
    events.head().await.unwrap();
    assert_eq!(events.chunk().await.unwrap(), b"tick");
}

#[tokio::test]
async fn a_drain_closes_both_entrances() {
    let rig = rig().await;
    let (mut outside, mut inside) = (rig.connect().await, rig.connect_within().await);
    assert_eq!(outside.ask(with_host("/web", "a")).await.status, 200);
    assert_eq!(inside.ask(with_host("/", "inner")).await.status, 200);
    let soft = std::time::Duration::from_millis(20);
    let left = within("the drain", rig.proxy.drain(soft, std::time::Duration::from_secs(10))).await;
    assert_eq!(left, 0);
    assert!(outside.rest().await.is_empty() && inside.rest().await.is_empty());
}

#[tokio::test]
async fn a_tunnels_word_on_the_client_counts_outside_alone() {
    let (address, received) = recording("web").await;
    let mut rig = Rig::start(limits()).await;
    for (client_address, outside) in [(ForwardedBy::Nobody, "127.0.0.1"), (ForwardedBy::Cloudflare, "203.0.113.9")] {
        rig.client_address = client_address;
        rig.publish(&[address]);
        let said = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\nCF-Connecting-IP: 203.0.113.9\r\n\r\n");
        assert_eq!(rig.ask(said("a.test")).await.status, 200);
        assert_eq!(rig.connect_within().await.ask(said("web.svc.internal")).await.status, 200);
        let heads: Vec<String> = received.lock().unwrap().drain(..).map(|(head, _)| head).collect();
        assert_eq!(header(&heads[0], "x-forwarded-for"), Some(outside));
        assert_eq!(header(&heads[0], "cf-connecting-ip").is_some(), client_address == ForwardedBy::Cloudflare);
        assert_eq!(header(&heads[1], "x-forwarded-for"), Some("127.0.0.1"), "from within nobody is believed");
        assert_eq!(header(&heads[1], "cf-connecting-ip"), None);
    }
}
