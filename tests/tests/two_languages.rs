//! The issue's own sentence: one stack of a Python and a Node service, served, replaced, rolled back and killed.

use agentd_tests::World;
use futures_util::{SinkExt, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_tungstenite::tungstenite::Message;

fn server(version: &str) -> String {
    include_str!("../apps/server.js").replace("VERSION_MARK", version)
}

#[test]
fn python_and_node_are_served_replaced_rolled_back_and_killed() {
    let mut world = World::new();
    let python = world.web_repo("python", "p1");
    let node = world.repo("node");
    node.commit(&[("server.js", &server("n1"))]);
    world.stack(&format!(
        "[[service]]\nname = \"python\"\nrepo = \"{}\"\nref = \"main\"\nrun = \"python3 web.py\"\npath = \"/\"\n\
         health = {{ path = \"/healthz\" }}\n\
         [[service]]\nname = \"node\"\nrepo = \"{}\"\nref = \"main\"\nbuild = \"node --check server.js\"\n\
         run = \"node server.js\"\npath = \"/node\"\nreplicas = 2\n",
        python.url(),
        node.url()
    ));
    world.start();
    world.applied();
    assert_eq!(world.get("/").json()["version"], "p1");
    assert_eq!(world.get("/node").json()["version"], "n1");
    assert_eq!(echo(world.port, "hello"), "hello");

    node.commit(&[("server.js", &server("n2"))]);
    world.serves("/node", "n2");
    world.applied();
    let rolled = world.ctl(&["rollback", "node"]);
    assert_eq!(rolled.code, 0, "{rolled:?}");
    assert_eq!(world.get("/node").json()["version"], "n1");

    for instance in world.service("node").instances {
        let pid = i32::try_from(instance.pid.unwrap()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    world.until("both instances are ready again", |world| {
        let node = world.service("node");
        node.restarts >= 2 && node.ready == 2
    });
    world.serves("/node", "n1");
    world.down();
}

/// One text message through the edge to the WebSocket and back.
fn echo(port: u16, text: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = format!("ws://127.0.0.1:{port}/node/socket");
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        socket.send(Message::text(text)).await.unwrap();
        socket.next().await.unwrap().unwrap().into_text().unwrap().to_string()
    })
}
