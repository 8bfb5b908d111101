use super::rig::*;

/// Sends raw bytes, closes our side when all is read, and returns what came back.
async fn exchange(rig: &Rig, bytes: &[u8]) -> Vec<u8> {
    let mut client = rig.connect().await;
    client.send(bytes).await;
    client.rest().await
}

fn status(answer: &[u8]) -> &str {
    std::str::from_utf8(answer.get(9..12).unwrap_or_default()).unwrap()
}

#[tokio::test]
async fn ambiguous_requests_never_reach_a_backend() {
    let (address, received) = recording("web").await;
    let rig = Rig::to(&[address]).await;
    for (request, expected) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n",
            "400",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\nHost: a\n\n", "400"),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", "400"),
        ("GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("GET /%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("GET //evil.test/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", "505"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"),
        ("\x16\x03\x01\x02\n", "400"),
    ] {
        let answer = exchange(&rig, request.as_bytes()).await;
        assert_eq!(status(&answer), expected, "{request:?}");
        let text = String::from_utf8(answer).unwrap().to_lowercase();
        assert!(text.contains("x-agentd-reason: ") && !text.contains("server:"), "{text}");
        assert_eq!(text.matches("content-length: ").count(), 1, "one answer only: {text}");
    }
    assert_eq!(*received.lock().unwrap(), []);
}

#[tokio::test]
async fn bytes_after_a_request_are_no_second_request_of_the_backend() {
    let (address, received) = recording("web").await;
    let rig = Rig::to(&[address]).await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    for request in [
        format!("GET /plain HTTP/1.1\r\nHost: a\r\n\r\n{hidden}"),
        format!("POST /sized HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok{hidden}"),
        format!("POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{hidden}"),
        format!(
            "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n{hidden}"
        ),
    ] {
        let answer = exchange(&rig, request.as_bytes()).await;
        assert_eq!(status(&answer), "200", "{request:?}");
    }
    let received = received.lock().unwrap();
    let heads: Vec<_> = received.iter().map(|(head, _)| head.split(' ').nth(1).unwrap()).collect();
    assert_eq!(heads, ["/plain", "/sized", "/chunked", "/upgrade"]);
    assert_eq!(received[1].1, b"ok");
    assert_eq!(received[2].1, b"ok");
}

#[tokio::test]
async fn a_large_head_is_431_even_when_it_comes_in_pieces() {
    let (address, received) = recording("web").await;
    let rig = Rig::to(&[address]).await;
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n", "x".repeat(70_000));
    let answer = exchange(&rig, request.as_bytes()).await;
    assert_eq!(status(&answer), "431", "{}", String::from_utf8_lossy(&answer));
    assert!(received.lock().unwrap().is_empty());
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n", "x".repeat(60_000));
    let mut client = rig.connect().await;
    assert_eq!(client.ask(&request).await.status, 200);
    for byte in get("/slowly").as_bytes() {
        client.send([*byte]).await;
    }
    assert_eq!(client.response().await.status, 200);
    assert!(received.lock().unwrap()[1].0.starts_with("GET /slowly"));
}

#[tokio::test]
async fn absolute_form_reaches_the_backend_in_origin_form() {
    let (address, received) = recording("web").await;
    let rig = Rig::to(&[address]).await;
    let request = "POST http://b.test:81/x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(rig.ask(request).await.status, 200);
    let (head, body) = received.lock().unwrap().pop().unwrap();
    assert!(head.starts_with("POST /x?y HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "host"), Some("b.test:81"));
    assert_eq!(body, b"ok");
}

#[tokio::test]
async fn the_backend_learns_who_asked() {
    let (address, received) = recording("web").await;
    let rig = Rig::to(&[address]).await;
    rig.ask(
        "GET / HTTP/1.1\r\nHost: a.test:80\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\nX-Request-Id: my-id\r\n\r\n",
    )
    .await;
    let (head, _) = received.lock().unwrap().pop().unwrap();
    for (name, value) in [
        ("host", Some("a.test:80")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("a.test:80")),
        ("x-request-id", Some("my-id")),
        ("forwarded", None),
    ] {
        assert_eq!(header(&head, name), value, "{name}");
    }
}

#[tokio::test]
async fn an_old_client_without_host_is_served() {
    let (address, received) = recording("web").await;
    let rig = Rig::to(&[address]).await;
    let answer = exchange(&rig, b"GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(status(&answer), "200");
    let (head, _) = received.lock().unwrap().pop().unwrap();
    assert_eq!(header(&head, "host"), Some(address.to_string().as_str()));
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let seen = Received::default();
    let kept = std::sync::Arc::clone(&seen);
    let address = backend(move |mut client| {
        let kept = std::sync::Arc::clone(&kept);
        async move {
            let head = client.head().await.unwrap();
            kept.lock().unwrap().push((head, Vec::new()));
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Own\r\nX-Own: 1\r\nKeep-Alive: timeout=9\r\nProxy-Connection: x\r\nX-Kept: 1\r\n\r\n";
            client.send(answer).await;
            client.head().await;
        }
    })
    .await;
    let rig = Rig::to(&[address]).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: x\r\nUpgrade: other\r\nX-Kept: 1\r\n\r\n";
    let response = rig.ask(request).await;
    let (head, _) = seen.lock().unwrap().pop().unwrap();
    for name in ["x-mine", "keep-alive", "te", "proxy-connection", "upgrade"] {
        assert_eq!(header(&head, name), None, "{name} in the request: {head}");
    }
    for name in ["x-own", "keep-alive", "proxy-connection"] {
        assert_eq!(response.header(name), None, "{name} in the response: {}", response.head);
    }
    assert_eq!(header(&head, "x-kept"), Some("1"));
    assert_eq!(response.header("x-kept"), Some("1"));
}

/// Whatever the parser behind our checks thinks of a character, the answer is the backend's or ours.
#[tokio::test]
async fn every_printable_character_gets_a_clear_answer() {
    let (address, received) = recording("web").await;
    let rig = Rig::to(&[address]).await;
    for character in (0x21..=0x7e_u8).map(char::from) {
        for target in [format!("/a{character}b"), format!("/?q={character}b")] {
            let answer =
                exchange(&rig, format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())
                    .await;
            let text = String::from_utf8(answer).unwrap().to_lowercase();
            assert!(!text.contains("server:"), "{target}: {text}");
            if text.starts_with("http/1.1 200") {
                let (head, _) = received.lock().unwrap().pop().unwrap();
                assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{target} became {head}");
            } else {
                assert!(
                    text.starts_with("http/1.1 400") && text.contains("x-agentd-reason: bad-path"),
                    "{target}: {text}"
                );
            }
        }
    }
}

#[tokio::test]
async fn too_many_nominations_are_a_clear_400() {
    let rig = Rig::to(&[named("web").await]).await;
    let names: Vec<String> = (0..20).map(|n| format!("X-{n}")).collect();
    let answer = rig.ask(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n", names.join(", "))).await;
    assert_eq!((answer.status, answer.header("x-agentd-reason")), (400, Some("malformed")));
    let answer = rig.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("x-agentd-reason")), (400, Some("malformed")));
}
