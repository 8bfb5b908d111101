//! The agent of a machine, in namespaces of the test: a copy of /etc, folders of state and a network that nobody else
//! has. Names of services are there for every process of that machine.

use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agentd_tests::{World, dns, program};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const HOSTS: &str = "/etc/hosts";
/// Its last line has no end, as after a careless `printf`.
const BEFORE: &str = "127.0.0.1\tlocalhost\n# a comment\r\n10.9.9.9 other.test";

/// The manager, and on the way out whatever runs in this network namespace but us.
struct Machine {
    manager: Option<Child>,
}

impl Machine {
    fn start(world: &World) -> Self {
        let log = std::fs::File::options().append(true).create(true).open(world.dir().join("manager.log")).unwrap();
        let child = Command::new(program("agentd"))
            .args(["run", "--system", "--stack"])
            .arg(&world.stack_file)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        Self { manager: Some(child) }
    }

    fn wait(&mut self) {
        self.manager.take().unwrap().wait().unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let entries = std::fs::read_dir("/proc").unwrap();
        for pid in entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok()) {
            if std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|namespace| namespace == own) {
                // It may have ended meanwhile.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
        if let Some(mut child) = self.manager.take() {
            // Killed above.
            let _ = child.wait();
        }
    }
}

fn on_another_machine(body: impl FnOnce(&mut World) + Send) {
    assert!(nix::unistd::geteuid().is_root(), "run by `cargo xtask test-root`");
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("root may unshare");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let empty = |path: &str| {
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).unwrap();
        };
        empty("/mnt");
        assert!(Command::new("cp").args(["-a", "/etc", "/mnt/etc"]).status().unwrap().success());
        mount(Some("/mnt/etc"), "/etc", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        ["/run", "/var/lib", "/var/log"].into_iter().for_each(empty);
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        // What agentctl is told to be a home.
        std::fs::create_dir("/mnt/ctl").unwrap();
        symlink("/run/agentd", "/mnt/ctl/run").unwrap();
        let mut world = World::below(Path::new("/mnt"), "unused");
        world.home = "/mnt/ctl".into();
        body(&mut world);
    };
    std::thread::scope(|scope| scope.spawn(inside).join().unwrap());
}

fn entry(world: &World, name: &str) -> String {
    let dir = world.dir().join("repos").join(name);
    if !dir.exists() {
        let program = include_str!("../apps/reach.py").replace("VERSION_MARK", name);
        world.repo(name).commit(&[("reach.py", &program)]);
    }
    format!(
        "[[service]]\nname = \"{name}\"\nrepo = \"file://{}\"\nref = \"main\"\nrun = \"python3 reach.py\"\n\
         path = \"/{name}\"\n",
        dir.display()
    )
}

fn hosts() -> String {
    std::fs::read_to_string(HOSTS).unwrap()
}

fn facts() -> (u32, u32, u32) {
    let facts = std::fs::metadata(HOSTS).unwrap();
    (facts.uid(), facts.gid(), facts.mode() & 0o7777)
}

/// What a program of the machine gets that knows nothing but the name.
fn fetch(url: &str) -> String {
    let script = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=20).read().decode())";
    let output = Command::new("python3").args(["-c", script, url]).env_remove("http_proxy").output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn seen_by(world: &World, service: &str, path: &str) -> String {
    world.try_get(&format!("/{service}/read?path={path}")).map_or_else(|error| error, |answer| answer.body)
}

#[test]
fn every_process_of_the_machine_finds_the_names_until_it_is_taken_down() {
    on_another_machine(|world| {
        std::fs::write(HOSTS, BEFORE).unwrap();
        std::fs::set_permissions(HOSTS, std::fs::Permissions::from_mode(0o664)).unwrap();
        chown(HOSTS, Some(0), Some(5)).unwrap();
        let before = facts();
        let one = entry(world, "one");
        world.stack(&one);
        let mut machine = Machine::start(world);
        world.serves("/one", "one");
        assert!(hosts().starts_with(BEFORE) && hosts().ends_with("\n127.0.0.1 one.svc.internal\n# END agentd\n"));
        assert_eq!(facts(), before);
        assert!(
            fetch("http://one.svc.internal/").contains("\"version\": \"one\""),
            "{}",
            fetch("http://one.svc.internal/")
        );
        assert!(!fetch("http://other.svc.internal/").contains("\"version\": "), "the control");

        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.send_to(&dns::query("one.svc.internal", dns::A), "127.0.0.153:53").unwrap();
        let mut answer = [0; 512];
        let count = socket.recv(&mut answer).unwrap();
        assert!(answer[..count].windows(4).any(|bytes| bytes == [127, 0, 0, 1]), "{:?}", &answer[..count]);
        assert!(seen_by(world, "one", "/proc/self/environ").contains("SERVICE_ONE_URL=http://one.svc.internal\\u0000"));

        // By rename: what covered the old file in the instance's own namespace is covered again.
        let two = entry(world, "two");
        world.stack(&(one.clone() + &two));
        world.serves("/two", "two");
        assert!(hosts().contains("127.0.0.1 one.svc.internal\n127.0.0.1 two.svc.internal\n"));
        world.until("the instance has its own file again", |world| {
            let seen = seen_by(world, "one", HOSTS);
            seen.contains("127.0.0.1 two\\n") && !seen.contains("BEGIN agentd") && seen.contains("other.test")
        });

        // In place, where something is mounted there.
        std::fs::write("/mnt/mounted", hosts()).unwrap();
        mount(Some("/mnt/mounted"), HOSTS, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let inode = std::fs::metadata(HOSTS).unwrap().ino();
        world.stack(&one);
        world.until("the name that left is gone", |_| !hosts().contains("two.svc.internal"));
        assert_eq!(std::fs::metadata(HOSTS).unwrap().ino(), inode);
        assert!(hosts().starts_with(BEFORE) && hosts().contains("127.0.0.1 one.svc.internal\n"), "{}", hosts());
        nix::mount::umount(HOSTS).unwrap();

        // What others do to our lines is mended; what they do to theirs is theirs.
        std::fs::write(HOSTS, format!("{BEFORE}\n# BEGIN agentd\n10.0.0.7 theirs.test\n")).unwrap();
        world.until("the block is whole again", |_| hosts().contains("127.0.0.1 one.svc.internal\n# END agentd\n"));
        assert!(hosts().contains("10.0.0.7 theirs.test\n"), "{}", hosts());
        let down = world.ctl(&["down"]);
        assert_eq!(down.code, 0, "{down:?}");
        machine.wait();
        assert_eq!(hosts(), format!("{BEFORE}\n10.0.0.7 theirs.test\n"));
    });
}

#[test]
fn the_verb_for_scripts_removes_the_block_alone_without_a_manager() {
    on_another_machine(|world| {
        std::fs::write(HOSTS, BEFORE).unwrap();
        world.stack(&entry(world, "one"));
        let mut machine = Machine::start(world);
        world.serves("/one", "one");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(machine.manager.as_ref().unwrap().id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        machine.wait();
        assert!(fetch("http://one.svc.internal/").contains("one"), "names outlive the manager");
        let remove = || {
            let output = Command::new(program("agentd")).args(["hosts", "remove"]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            hosts()
        };
        assert_eq!(remove(), BEFORE);
        assert_eq!(remove(), BEFORE);
        std::fs::rename(HOSTS, "/etc/elsewhere").unwrap();
        symlink("elsewhere", HOSTS).unwrap();
        std::fs::write("/etc/elsewhere", "a\n# BEGIN agentd\n127.0.0.1 x.svc.internal\n").unwrap();
        assert_eq!(remove(), "a\n");
        assert!(Path::new(HOSTS).symlink_metadata().unwrap().is_symlink());
    });
}
