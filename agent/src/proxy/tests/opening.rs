use std::net::Shutdown;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

use super::rig::*;
use crate::lifecycle;
use crate::proxy::Entrance;

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
