//! What the sockets that listen on this host mean for one instance. Processes of other users cannot be looked into
//! without privilege: their sockets have a uid and no holder.

use std::collections::{BTreeMap, BTreeSet};

use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::INSTANCE_ENV;
use agentd_sys::listeners::{Socket, Transport, holders, listening, name_of};

/// Parents followed from a process up to the program; a longer chain counts as a stranger.
const DEPTH_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Holder {
    pid: u32,
    name: String,
    kin: Kin,
}

/// Whether a process belongs to the instance that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Kin {
    Own,
    Stranger,
}

/// Every listening TCP socket of this network namespace that matters to one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Survey {
    sockets: Vec<(Socket, Vec<Holder>)>,
    /// User the instance runs as: an unseen holder of that user gets the benefit of the doubt.
    uid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in super::super) struct Judgement {
    /// The port is answered by somebody else, in words.
    pub(in super::super) stranger: Option<String>,
    /// The instance listens for more than this host, in words with the cure.
    pub(in super::super) public_bind: Option<String>,
    /// Nobody listens on the port, the instance does elsewhere, in words.
    pub(in super::super) other_port: Option<String>,
}

/// What the sockets mean for an instance that should listen on `port`.
pub(in super::super) fn judge(survey: &Survey, port: u16) -> Judgement {
    let on_port: Vec<_> = survey.sockets.iter().filter(|(socket, _)| socket.address.port() == port).collect();
    let own = |(_, holders): &&&(Socket, Vec<Holder>)| holders.iter().any(|holder| holder.kin == Kin::Own);
    let mut judgement = Judgement::default();
    if on_port.is_empty() {
        let mut elsewhere: Vec<u16> =
            survey.sockets.iter().filter(|entry| own(&entry)).map(|(socket, _)| socket.address.port()).collect();
        elsewhere.sort_unstable();
        elsewhere.dedup();
        if let Some(found) = elsewhere.first() {
            judgement.other_port = Some(format!("run.other-port: listens on {found}, expected $PORT={port}"));
        }
        return judgement;
    }
    if !on_port.iter().any(|entry| own(&entry)) {
        judgement.stranger = on_port.iter().find_map(|(socket, holders)| stranger(socket, holders, survey.uid));
        return judgement;
    }
    judgement.public_bind = on_port
        .iter()
        .filter(|entry| own(entry))
        .find(|(socket, _)| !socket.address.ip().to_canonical().is_loopback())
        .map(|(socket, _)| {
            let address = socket.address;
            format!("run.public-bind: listens on {address}, open to other hosts; let it bind $HOST (127.0.0.1)")
        });
    judgement
}

fn stranger(socket: &Socket, holders: &[Holder], own_uid: u32) -> Option<String> {
    match holders.first() {
        Some(Holder { pid, name, .. }) => {
            Some(format!("port {} is answered by pid {pid} ({name}), not by this service", socket.address.port()))
        }
        None if socket.uid == own_uid => None,
        None => Some(format!(
            "port {} is answered by a program of uid {}, not by this service",
            socket.address.port(),
            socket.uid
        )),
    }
}

/// Looks at every listening socket and who of `instance` holds it. Reads all of /proc: for a blocking thread.
pub(in super::super) fn survey(instance: &InstanceId, program: u32, uid: u32) -> Survey {
    let sockets = listening(Transport::Tcp);
    let inodes: BTreeSet<u64> = sockets.iter().map(|socket| socket.inode).collect();
    let holders = holders(&inodes);
    let mut kin: BTreeMap<u32, Kin> = BTreeMap::new();
    let sockets = sockets
        .into_iter()
        .map(|socket| {
            let pids = holders.get(&socket.inode).into_iter().flatten();
            let found = pids.map(|&pid| Holder {
                pid,
                name: name_of(pid),
                kin: *kin.entry(pid).or_insert_with(|| kin_of(pid, instance, program)),
            });
            let found = found.collect();
            (socket, found)
        })
        .collect();
    Survey { sockets, uid }
}

/// Marked with the instance's id, or a descendant of its program.
fn kin_of(pid: u32, instance: &InstanceId, program: u32) -> Kin {
    let mark = format!("{INSTANCE_ENV}={instance}");
    let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    if environ.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes()) {
        return Kin::Own;
    }
    let mut at = pid;
    for _ in 0..DEPTH_MAX {
        if at == program {
            return Kin::Own;
        }
        match agentd_sys::process::stat(at) {
            Some(stat) if stat.parent > 1 => at = stat.parent,
            Some(_) | None => return Kin::Stranger,
        }
    }
    Kin::Stranger
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn id() -> InstanceId {
        InstanceId::new("abcdef012345").unwrap()
    }

    fn survey_of(address: &str, holders: &[(u32, Kin)]) -> Survey {
        let socket =
            Socket { address: address.parse().unwrap(), peer: "0.0.0.0:0".parse().unwrap(), uid: 1000, inode: 1 };
        let holders = holders.iter().map(|&(pid, kin)| Holder { pid, name: "node".into(), kin }).collect();
        Survey { sockets: vec![(socket, holders)], uid: 1000 }
    }

    #[test]
    fn judgements() {
        let own = &[(7, Kin::Own)];
        assert_eq!(judge(&survey_of("127.0.0.1:20017", own), 20017), Judgement::default());
        assert_eq!(judge(&survey_of("127.0.0.1:20017", &[]), 20017), Judgement::default(), "unseen, same user");
        let public = judge(&survey_of("0.0.0.0:20017", own), 20017).public_bind.unwrap();
        assert!(public.contains("0.0.0.0:20017") && public.contains("HOST"), "{public}");
        let mapped = judge(&survey_of("[::ffff:127.0.0.1]:20017", own), 20017);
        assert_eq!(mapped, Judgement::default());
        let elsewhere = judge(&survey_of("127.0.0.1:3000", own), 20017).other_port.unwrap();
        assert!(elsewhere.contains("listens on 3000, expected $PORT=20017"), "{elsewhere}");
        let stranger = judge(&survey_of("127.0.0.1:20017", &[(9, Kin::Stranger)]), 20017).stranger.unwrap();
        assert!(stranger.contains("pid 9 (node)"), "{stranger}");
        let mut foreign = survey_of("127.0.0.1:20017", &[]);
        foreign.uid = 1;
        assert!(judge(&foreign, 20017).stranger.unwrap().contains("uid 1000"));
        assert_eq!(judge(&survey_of("127.0.0.1:3000", &[(9, Kin::Stranger)]), 20017), Judgement::default());
    }

    #[test]
    fn our_own_listener_is_found_under_our_pid() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let uid = nix::unistd::geteuid().as_raw();
        let ours = judge(&survey(&id(), std::process::id(), uid), port);
        assert_eq!(ours, Judgement::default());
        let stranger = judge(&survey(&id(), u32::MAX, uid), port).stranger.unwrap();
        assert!(stranger.contains(&format!("pid {}", std::process::id())), "{stranger}");
    }
}
