use std::net::Shutdown;
use std::time::Duration;

use nix::time::ClockId;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

use super::rig::*;
use crate::lifecycle;
use crate::proxy::{Entrance, Limits};

/// Long enough for a busy task to show.
const IDLE: Duration = Duration::from_millis(400);
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

#[tokio::test]
async fn a_listener_is_served_while_somebody_has_it_open() {
    let backend = named("here").await;
    let rig = Rig::to(&[backend]).await;
    // A number the kernel chose by itself would be given back at each shutting.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let others = socket.try_clone().unwrap();
    lifecycle::spawn("test accept", rig.proxy.clone().accept(socket.into(), Entrance::External));

    let mut kept = None;
    for round in 0..3 {
        assert!(TcpStream::connect(address).await.is_err(), "shut, round {round}");
        others.listen(16).unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let mut client = Client::over(client);
        assert_eq!(within("an answer on the opened socket", client.ask(REQUEST)).await.status, 200);
        others.shutdown(Shutdown::Read).unwrap();
        assert_eq!(within("an answer on the connection of before", client.ask(REQUEST)).await.status, 200);
        kept = Some(client);
    }
    let mut kept = kept.unwrap();
    assert_eq!(within("an answer at the end", kept.ask(REQUEST)).await.body, b"here");
}

#[tokio::test]
async fn a_listener_that_was_shut_and_opened_unseen_is_waited_for_not_spun_on() {
    // The rig's own two listeners have one each, for whoever comes next.
    let mut rig = Rig::start(Limits { connections_max: 3, ..limits() }).await;
    rig.publish(&[named("here").await]);
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(16).unwrap();
    socket.set_nonblocking(true).unwrap();
    let others = socket.try_clone().unwrap();
    lifecycle::spawn("test accept", rig.proxy.clone().accept(socket.into(), Entrance::External));
    let mut first = Client::over(TcpStream::connect(address).await.unwrap());
    assert_eq!(within("an answer before", first.ask(REQUEST)).await.status, 200);

    // All connections it may have are in use, so the accepting task is told of the end and does not look.
    others.shutdown(Shutdown::Read).unwrap();
    assert_eq!(within("an answer while shut", first.ask(REQUEST)).await.status, 200);
    others.listen(16).unwrap();
    drop(first);
    let mut second = Client::over(TcpStream::connect(address).await.unwrap());
    assert_eq!(within("an answer after", second.ask(REQUEST)).await.status, 200);
    drop(second);
    let clock = || Duration::from(nix::time::clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let before = clock();
    tokio::time::sleep(IDLE).await; // poll: idleness has no end to wait for; all tasks of this test share its thread
    let used = clock() - before;
    assert!(used < IDLE / 4, "{used:?} of {IDLE:?} spent on an idle listener");
}
