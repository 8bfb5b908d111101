use std::time::Duration;

use agentd_protocol::edge::Absent;

use super::rig::*;

fn replace(rig: &mut Rig, backends: &[(usize, std::net::SocketAddr)], absent: Absent) {
    rig.apply(vec![route(None, "/", "web")], vec![service("web", backends, absent)]);
}

async fn held(rig: &Rig, count: usize) {
    let table = rig.registry.table().load_full();
    within("requests to be held", async {
        while table.services[0].held.count() != count {
            tokio::time::sleep(Duration::from_millis(2)).await; // poll: capped by `within`
        }
    })
    .await;
}

#[tokio::test]
async fn requests_wait_for_the_replacement() {
    let (address, received) = recording("new").await;
    let mut rig = Rig::to(&[named("old").await]).await;
    replace(&mut rig, &[], Absent::Replacing);
    let (mut get_client, mut post_client) = (rig.connect().await, rig.connect().await);
    get_client.send(get("/")).await;
    post_client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo").await;
    held(&rig, 2).await;
    let third = rig.get("/").await;
    assert_eq!((third.status, third.header("retry-after")), (503, Some("2")), "no more than the limit wait");
    // A snapshot about something else must not end the wait.
    replace(&mut rig, &[], Absent::Replacing);
    held(&rig, 2).await;
    replace(&mut rig, &[(7, address)], Absent::Replacing);
    assert_eq!(get_client.response().await.text(), "new");
    post_client.send("dy").await;
    assert_eq!(post_client.response().await.text(), "new");
    held(&rig, 0).await;
    assert!(received.lock().unwrap().iter().any(|(head, body)| head.starts_with("POST") && body == b"body"));
}

#[tokio::test]
async fn the_wait_ends_with_the_reason_the_deadline_or_the_client() {
    let mut limits = limits();
    limits.hold.timeout = Duration::from_millis(300);
    let mut rig = Rig::start(limits).await;
    replace(&mut rig, &[], Absent::Replacing);
    let late = rig.get("/").await;
    assert_eq!((late.status, late.header("x-agentd-reason")), (503, Some("replacing")));
    let mut rig = Rig::to(&[]).await;
    replace(&mut rig, &[], Absent::Replacing);
    let mut leaving = rig.connect().await;
    leaving.send(get("/")).await;
    held(&rig, 1).await;
    drop(leaving);
    held(&rig, 0).await;
    let mut failing = rig.connect().await;
    failing.send(get("/")).await;
    held(&rig, 1).await;
    replace(&mut rig, &[], Absent::Failing);
    assert_eq!(failing.response().await.header("x-agentd-reason"), Some("failing"));
}
