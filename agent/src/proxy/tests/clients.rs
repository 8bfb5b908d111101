use std::time::{Duration, Instant};

use super::rig::*;
use crate::proxy::Limits;

fn quick(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = limits();
    change(&mut limits);
    limits
}

#[tokio::test]
async fn a_head_that_drips_in_is_cut_off() {
    let mut rig = Rig::start(quick(|limits| limits.head.head_timeout = Duration::from_millis(400))).await;
    rig.publish(&[named("web").await]);
    let mut client = rig.connect().await;
    let started = Instant::now();
    let request = get("/a-path-that-is-long-enough-to-take-a-while");
    for byte in request.as_bytes() {
        // Writing fails once the proxy has closed; the answer is what counts.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, &[*byte]).await;
        tokio::time::sleep(Duration::from_millis(20)).await; // poll: the slow client itself
        if started.elapsed() > Duration::from_millis(700) {
            break;
        }
    }
    assert_eq!(client.response().await.status, 408);
}

#[tokio::test]
async fn an_idle_connection_is_closed_before_and_between_requests() {
    let mut rig = Rig::start(quick(|limits| limits.head.idle_timeout = Duration::from_millis(300))).await;
    rig.publish(&[named("web").await]);
    let mut client = rig.connect().await;
    assert_eq!(client.rest().await, b"");
    let mut client = rig.connect().await;
    assert_eq!(client.ask(get("/")).await.status, 200);
    let idle_since = Instant::now();
    assert_eq!(client.rest().await, b"");
    assert!(idle_since.elapsed() > Duration::from_millis(250), "not at once: {:?}", idle_since.elapsed());
}

/// Where cloudflared lets go of an idle connection, and by how much we must outlast it: it may send a POST just then.
#[tokio::test]
async fn an_idle_connection_outlasts_the_ninety_seconds_of_a_tunnel() {
    const TUNNEL_IDLE: Duration = Duration::from_secs(90);
    let mut rig = Rig::start(Limits { connections_max: 64, ..Limits::default() }).await;
    rig.publish(&[named("web").await]);
    let mut client = rig.connect().await;
    assert_eq!(client.ask(get("/")).await.status, 200);
    let silence = async |client: &mut Client, length| {
        tokio::time::pause();
        let mut byte = [0];
        // The clock leaps as soon as nobody has anything to do.
        let ended = tokio::time::timeout(length, client.stream.peek(&mut byte)).await;
        tokio::time::resume();
        ended
    };
    let quiet = silence(&mut client, TUNNEL_IDLE + Duration::from_secs(20)).await;
    assert!(quiet.is_err(), "closed too early: {quiet:?}");
    assert_eq!(client.ask(get("/")).await.status, 200);
    let closed = silence(&mut client, Duration::from_secs(150)).await;
    assert!(matches!(closed, Ok(Ok(0))), "kept for ever: {closed:?}");
}

#[tokio::test]
async fn connections_over_the_cap_wait_in_the_queue() {
    let mut rig = Rig::start(quick(|limits| limits.connections_max = 2)).await;
    rig.publish(&[named("web").await]);
    let (mut first, mut second) = (rig.connect().await, rig.connect().await);
    assert_eq!(first.ask(get("/")).await.status, 200);
    assert_eq!(second.ask(get("/")).await.status, 200);
    let mut third = rig.connect().await;
    third.send(get("/")).await;
    assert_eq!(rig.proxy.connections(), 2);
    drop(first);
    assert_eq!(third.response().await.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_gives_the_backend_back() {
    let address = backend(async |mut client| {
        client.head().await;
        client.head().await;
    })
    .await;
    let mut rig = Rig::to(&[address]).await;
    let mut client = rig.connect().await;
    client.send(get("/never-answered")).await;
    within("the request to be in flight", rig.leases(1)).await;
    drop(client);
    within("the request to be given up", rig.leases(0)).await;
    rig.publish(&[]);
    within("idle", rig.idle(0)).await;
}

#[tokio::test]
async fn an_answer_reaches_a_client_that_is_still_sending() {
    const BYTES: usize = 2 * 1024 * 1024;
    let mut rig = Rig::start(limits()).await;
    rig.apply(vec![], vec![]);
    for _ in 0..5 {
        let mut client = rig.connect().await;
        client.send(format!("POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n")).await;
        let mut sent = 0;
        while sent < BYTES {
            // Refused early is fine, as long as the answer can be read.
            match tokio::io::AsyncWriteExt::write(&mut client.stream, &[b'x'; 16 * 1024]).await {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
        assert_eq!(client.response().await.status, 404);
    }
}
