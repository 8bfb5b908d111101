use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::rig::*;
use crate::lifecycle;

/// Requests per client; with swaps all along.
const REQUESTS: usize = 150;
const SWAPS_MIN: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_snapshots_swap() {
    let backends = [named("even").await, named("odd!").await];
    let mut rig = Rig::start(limits()).await;
    let publish = |rig: &mut Rig, turn: usize| {
        let instance = service("web", &[(turn, backends[turn % 2])], agentd_protocol::edge::Absent::Replacing);
        rig.apply(vec![route(None, "/", "web")], vec![instance]);
    };
    publish(&mut rig, 0);
    let done = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for fresh in [true, false, true, false] {
        let (address, done) = (rig.address, Arc::clone(&done));
        clients.push(lifecycle::spawn("test client", async move {
            let connect = async || Client::over(tokio::net::TcpStream::connect(address).await.unwrap());
            let mut client = connect().await;
            for round in 0..REQUESTS {
                if fresh && round > 0 {
                    client = connect().await;
                }
                let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok";
                let response = client.ask(if round % 2 == 0 { request.into() } else { get("/") }).await;
                assert_eq!(response.status, 200, "{response:?}");
                assert_eq!(response.body.len(), 4);
            }
            done.fetch_add(1, Ordering::Relaxed);
        }));
    }
    let mut turn = 0;
    while done.load(Ordering::Relaxed) < 4 && clients.iter().any(|client| !client.is_finished()) || turn < SWAPS_MIN {
        let leaving = turn;
        turn += 1;
        publish(&mut rig, turn);
        within("the old backend to be idle", rig.idle(leaving)).await;
    }
    for client in clients {
        client.await.unwrap();
    }
    assert!(turn >= SWAPS_MIN);
}

#[tokio::test]
async fn idle_is_reported_only_after_the_last_request() {
    let release = Arc::new(tokio::sync::Notify::new());
    let gate = Arc::clone(&release);
    let slow = backend(move |mut client| {
        let gate = Arc::clone(&gate);
        async move {
            client.head().await;
            gate.notified().await;
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold").await;
            client.head().await;
        }
    })
    .await;
    let mut rig = Rig::to(&[slow]).await;
    let mut client = rig.connect().await;
    client.send(get("/")).await;
    within("the request to be in flight", rig.leases(1)).await;
    let new = service("web", &[(7, named("new").await)], agentd_protocol::edge::Absent::Starting);
    rig.apply(vec![route(None, "/", "web")], vec![new]);
    assert_eq!(rig.get("/").await.text(), "new");
    assert!(rig.registry.take_idle().is_empty());
    release.notify_one();
    assert_eq!(client.response().await.text(), "old");
    within("idle", rig.idle(0)).await;
}

#[tokio::test]
async fn a_drain_closes_idle_connections_last_and_waits_for_requests() {
    let release = Arc::new(tokio::sync::Notify::new());
    let (gate, slow_began) = (Arc::clone(&release), Arc::new(AtomicBool::new(false)));
    let began = Arc::clone(&slow_began);
    let address = backend(move |mut client| {
        let (gate, began) = (Arc::clone(&gate), Arc::clone(&began));
        async move {
            while let Some(head) = client.head().await {
                if head.starts_with("GET /slow") {
                    began.store(true, Ordering::Release);
                    gate.notified().await;
                }
                client.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let rig = Rig::to(&[address]).await;
    let (mut thinking, mut idle, mut slow) = (rig.connect().await, rig.connect().await, rig.connect().await);
    for client in [&mut thinking, &mut idle] {
        assert_eq!(client.ask(get("/")).await.header("connection"), Some("keep-alive"));
    }
    slow.send(get("/slow")).await;
    within("the slow request to begin", async {
        while !slow_began.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(5)).await; // poll: capped by `within`
        }
    })
    .await;
    let proxy = rig.proxy.clone();
    let (soft, deadline) = (Duration::from_millis(700), Duration::from_secs(15));
    let drain = lifecycle::spawn("test drain", async move { proxy.drain(soft, deadline).await });
    within("the listener to close", async {
        while tokio::net::TcpStream::connect(rig.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await; // poll: capped by `within`
        }
    })
    .await;
    let last = thinking.ask(get("/")).await;
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert_eq!(idle.rest().await, b"", "closed after the soft time");
    assert!(!drain.is_finished());
    release.notify_one();
    assert_eq!(slow.response().await.status, 200);
    assert_eq!(within("the drain", drain).await.unwrap(), 0);
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let address = backend(async |mut client| while client.head().await.is_some() {}).await;
    let rig = Rig::to(&[address]).await;
    let mut client = rig.connect().await;
    client.send(get("/never")).await;
    within("the request to be in flight", rig.leases(1)).await;
    let left = within("the drain", rig.proxy.drain(Duration::from_millis(50), Duration::from_millis(200))).await;
    assert_eq!(left, 1);
}
