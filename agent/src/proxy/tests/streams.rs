use super::rig::*;

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn a_websocket_carries_bytes_both_ways_and_counts_as_in_flight() {
    let address = backend(async |mut client| {
        let head = client.head().await.unwrap();
        assert_eq!(header(&head, "upgrade"), Some("websocket"));
        client
            .send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
            .await;
        while let Some(bytes) = client.exactly(4).await {
            client.send(bytes).await;
        }
    })
    .await;
    let mut rig = Rig::to(&[address]).await;
    let mut client = rig.connect().await;
    let response = client.ask(UPGRADE).await;
    assert_eq!((response.status, response.header("upgrade")), (101, Some("websocket")));
    for message in ["ping", "pong", "\r\n\r\n"] {
        client.send(message).await;
        assert_eq!(client.exactly(4).await.unwrap(), message.as_bytes());
    }
    rig.publish(&[]);
    assert!(rig.registry.take_idle().is_empty());
    client.send("last").await;
    assert_eq!(client.exactly(4).await.unwrap(), b"last");
    drop(client);
    within("the lease of the closed socket", rig.idle(0)).await;
}

/// With every timeout of ours far below the silence.
#[tokio::test]
async fn silence_kills_neither_websocket_nor_events() {
    let silence = std::time::Duration::from_millis(900);
    let address = backend(move |mut client| async move {
        let head = client.head().await.unwrap();
        if header(&head, "upgrade").is_some() {
            client.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        } else {
            client
                .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
        }
        tokio::time::sleep(silence).await; // poll: the silence that is tested
        client.send("4\r\nlate\r\n").await;
    })
    .await;
    let mut limits = limits();
    limits.backend_timeout = silence / 4;
    limits.head.idle_timeout = silence / 4;
    limits.head.head_timeout = silence / 4;
    let mut rig = Rig::start(limits).await;
    rig.publish(&[address]);
    let mut socket = rig.connect().await;
    assert_eq!(socket.ask(UPGRADE).await.status, 101);
    let mut events = rig.connect().await;
    events.send("GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n").await;
    events.head().await.unwrap();
    assert_eq!(socket.exactly(9).await.unwrap(), b"4\r\nlate\r\n");
    assert_eq!(events.chunk().await.unwrap(), b"late");
}

#[tokio::test]
async fn an_event_arrives_before_the_next_is_sent() {
    let (next, gate) = tokio::sync::mpsc::channel::<()>(1);
    let gate = std::sync::Arc::new(tokio::sync::Mutex::new(gate));
    let address = backend(move |mut client| {
        let gate = std::sync::Arc::clone(&gate);
        async move {
            client.head().await.unwrap();
            client
                .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
            for _ in 0..3 {
                client.send("9\r\ndata: x\n\n\r\n").await;
                gate.lock().await.recv().await;
            }
            client.send("0\r\n\r\n").await;
        }
    })
    .await;
    let rig = Rig::to(&[address]).await;
    let mut client = rig.connect().await;
    client.send(get("/events")).await;
    client.head().await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.chunk().await.unwrap(), b"data: x\n\n");
        next.send(()).await.unwrap();
    }
    assert_eq!(client.chunk().await.unwrap(), b"");
}

#[tokio::test]
async fn an_upload_streams_chunk_by_chunk() {
    let address = backend(async |mut client| {
        let head = client.head().await.unwrap();
        assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
        client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        loop {
            let chunk = client.chunk().await.unwrap();
            client.send(format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(&chunk))).await;
            if chunk.is_empty() {
                return;
            }
        }
    })
    .await;
    let rig = Rig::to(&[address]).await;
    let mut client = rig.connect().await;
    client.send("POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
    client.head().await.unwrap();
    assert_eq!(client.chunk().await.unwrap(), b"one");
    for chunk in ["two", "six"] {
        client.send(format!("3\r\n{chunk}\r\n")).await;
        assert_eq!(client.chunk().await.unwrap(), chunk.as_bytes(), "echoed before the next is sent");
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.chunk().await.unwrap(), b"");
}

#[tokio::test]
async fn a_client_that_expects_continue_gets_it_from_the_backend() {
    let address = backend(async |mut client| {
        let head = client.head().await.unwrap();
        assert_eq!(header(&head, "expect"), Some("100-continue"));
        client.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let body = client.body(&head).await.unwrap();
        client.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        client.send(body).await;
        client.head().await;
    })
    .await;
    let rig = Rig::to(&[address]).await;
    let mut client = rig.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(client.ask(head).await.status, 100);
    let response = client.ask("hello").await;
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
}

#[tokio::test]
async fn a_body_of_many_megabytes_passes_unharmed() {
    const BYTES: usize = 8 * 1024 * 1024;
    let address = backend(async |mut client| {
        let head = client.head().await.unwrap();
        let body = client.body(&head).await.unwrap();
        client.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        client.send(body).await;
    })
    .await;
    let rig = Rig::to(&[address]).await;
    let body: Vec<u8> = (0..BYTES).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let mut client = rig.connect().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n")).await;
    client.send(&body).await;
    assert!(client.response().await.body == body);
}
