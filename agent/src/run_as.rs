//! Whom builds, services and the edge run as: what was asked for, and whether this host can do it.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;

use agentd_protocol::places::Layout;
use agentd_protocol::shim::spec::User;

use crate::config::{Error, RunUser, Settings};
use crate::reconcile::{self, UserIds, Users};
use crate::source::Ids;
use crate::store::{Holder, Store};
use crate::supervisor::Tmp;

/// The value of `--run-as` that gives every service a user of its own.
const EACH_SERVICE: &str = "each-service";
/// Whom programs of ours run as where packaging made them a user.
const EDGE_USER: &str = "agentd-edge";
const TUNNEL_USER: &str = "agentd-tunnel";
/// Folders that a private mount covers: a home below them would be out of the services' sight.
const COVERED: [&str; 2] = ["/tmp", "/var/tmp"];

/// System users, people (useradd's range), systemd's home areas and mapped users.
const PEOPLE: RangeInclusive<u32> = 0..=60_577;
/// systemd's dynamic users, `nobody`, and the number that means no user.
const DYNAMIC: RangeInclusive<u32> = 61_184..=65_535;
/// Highest that every tool reads as a number: some have 31 bits.
const ID_MAX: u32 = 0x7fff_fffd;

#[derive(Debug, Clone)]
pub(crate) enum RunAs {
    /// A plain user's manager, or root by explicit wish.
    Manager,
    Shared(RunUser),
    Each(UserIds),
}

impl RunAs {
    pub(crate) fn choose(wish: Option<&str>, layout: Layout, settings: &Settings) -> Result<Self, Error> {
        let is_root = nix::unistd::geteuid().is_root();
        let wish = wish.or(match layout {
            Layout::System => Some(EACH_SERVICE),
            Layout::Home => None,
        });
        if wish != Some(EACH_SERVICE) {
            return Ok(RunUser::choose(wish)?.map_or(Self::Manager, Self::Shared));
        }
        if !is_root {
            return Err(Error::EachTakesRoot);
        }
        let range = settings.user_ids();
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default(); // absent: nothing is taken there
        check_range(&range, &read("/proc/self/uid_map"), &[read("/etc/subuid"), read("/etc/subgid")])?;
        let taken = taken(&range, &[read("/etc/passwd"), read("/etc/group")]);
        Ok(Self::Each(UserIds { range, taken }))
    }

    pub(crate) fn check_reaches(&self, dir: &Path) -> Result<(), Error> {
        self.anyone().map_or(Ok(()), |user| user.check_reaches(dir))
    }

    /// Our own PATH, as far as services can use it.
    pub(crate) fn search_path(&self) -> String {
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
        self.anyone().map_or(path.clone(), |user| user.search_path(&path))
    }

    /// Who stands for all of them when rights on folders are looked at.
    fn anyone(&self) -> Option<RunUser> {
        match self {
            Self::Manager => None,
            Self::Shared(user) => Some(user.clone()),
            Self::Each(ids) => {
                let id = *ids.range.start();
                let user = User { uid: id, gid: id };
                Some(RunUser { name: "of a service".to_owned(), user })
            }
        }
    }

    /// Of a program of ours; `None`: the manager's own.
    pub(crate) async fn own(&self, program: Holder, store: &Store) -> Result<Option<User>, reconcile::NoUser> {
        match self {
            Self::Manager => Ok(None),
            Self::Shared(RunUser { user, .. }) => Ok(Some(user.clone())),
            Self::Each(ids) => match packaged_user(&program) {
                Some(user) => Ok(Some(user)),
                None => {
                    let Ids { uid, gid } = ids.of(store, program, BTreeSet::new()).await?;
                    Ok(Some(User { uid, gid }))
                }
            },
        }
    }

    /// For the rooms, and what to say of /tmp. `mounts`: whether this host lets us mount in private.
    pub(crate) fn users(&self, state_dir: &Path, mounts: Mounts) -> (Users, Option<String>) {
        let ids = match self {
            Self::Manager => return (Users::Manager, None),
            Self::Shared(RunUser { user, .. }) => {
                return (Users::Shared(Ids { uid: user.uid, gid: user.gid }), None);
            }
            Self::Each(ids) => ids.clone(),
        };
        let why = match (COVERED.iter().find(|covered| state_dir.starts_with(covered)), mounts) {
            (Some(covered), _) => format!("the home lies below {covered}; take another --home"),
            (None, Mounts::Refused) => "this host refuses private mounts".to_owned(),
            (None, Mounts::Possible) => return (Users::Each { ids, tmp: Tmp::Private }, None),
        };
        let said = format!("services share /tmp and /var/tmp with the machine: {why}");
        (Users::Each { ids, tmp: Tmp::Shared }, Some(said))
    }

    /// What all services have to live with.
    pub(crate) fn limitation(&self) -> Option<String> {
        match self {
            Self::Each(_) => None,
            Self::Shared(chosen) => Some(format!(
                "all builds and services run as the one user `{}`: they can read each other's files; `--run-as \
                 {EACH_SERVICE}` gives each its own",
                chosen.name
            )),
            Self::Manager if nix::unistd::geteuid().is_root() => {
                Some("builds and services run as root, as --run-as root asks".to_owned())
            }
            Self::Manager => Some("builds and services run as the user who started agentd".to_owned()),
        }
    }
}

/// An unreadable user database is as one without the user: an id of ours is as good.
fn packaged_user(program: &Holder) -> Option<User> {
    let name = match program {
        Holder::Edge => EDGE_USER,
        Holder::Tunnel => TUNNEL_USER,
        Holder::Service(_) => return None,
    };
    let user = nix::unistd::User::from_name(name).ok().flatten()?;
    Some(User { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mounts {
    Possible,
    Refused,
}

/// Refuses a range that others give ids from.
fn check_range(range: &RangeInclusive<u32>, uid_map: &str, subordinate: &[String]) -> Result<(), Error> {
    let (first, last) = (*range.start(), *range.end());
    let refused = |why: String| Err(Error::UserIds { first, last, why });
    if first > last || last > ID_MAX {
        return refused("it must be [first, last] with last below 2147483646".to_owned());
    }
    for (others, whose) in [(PEOPLE, "people and system users"), (DYNAMIC, "systemd's dynamic users and `nobody`")] {
        if meet(range, &others) {
            return refused(format!("{} to {} belong to {whose}", others.start(), others.end()));
        }
    }
    for line in subordinate.iter().flat_map(|text| text.lines()) {
        let Some((owner, others)) = subordinate_range(line) else { continue };
        if meet(range, &others) {
            let (first, last) = (others.start(), others.end());
            return refused(format!("{first} to {last} belong to containers of `{owner}` (/etc/subuid, /etc/subgid)"));
        }
    }
    // In a user namespace only some ids exist at all.
    if !uid_map.is_empty() && !uid_map.lines().filter_map(mapped).any(|map| map.contains(&first) && map.contains(&last))
    {
        return refused("this container has no such users (/proc/self/uid_map)".to_owned());
    }
    Ok(())
}

fn meet(one: &RangeInclusive<u32>, other: &RangeInclusive<u32>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

/// subuid(5): `owner:first:count`
fn subordinate_range(line: &str) -> Option<(&str, RangeInclusive<u32>)> {
    let mut fields = line.trim().split(':');
    let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
    Some((owner, counted(first, count)?))
}

/// user_namespaces(7): `first  first-outside  count`
fn mapped(line: &str) -> Option<RangeInclusive<u32>> {
    let mut fields = line.split_ascii_whitespace();
    let first = fields.next()?;
    counted(first, fields.nth(1)?)
}

fn counted(first: &str, count: &str) -> Option<RangeInclusive<u32>> {
    let (first, count): (u32, u32) = (first.parse().ok()?, count.parse().ok()?);
    Some(first..=first.saturating_add(count.checked_sub(1)?))
}

/// Ids of the range in passwd(5) and group(5): the third field of either, and the group of a user.
fn taken(range: &RangeInclusive<u32>, databases: &[String]) -> BTreeSet<u32> {
    let lines = databases.iter().flat_map(|text| text.lines());
    let ids = lines.flat_map(|line| line.split(':').skip(2).take(2)).filter_map(|field| field.parse().ok());
    ids.filter(|id| range.contains(id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "         0          0 4294967295\n";

    fn why(range: RangeInclusive<u32>, uid_map: &str, subordinate: &str) -> Option<String> {
        match check_range(&range, uid_map, &[subordinate.to_owned()]) {
            Ok(()) => None,
            Err(Error::UserIds { why, .. }) => Some(why),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_range_is_nobody_elses() {
        let default = Settings::default().user_ids();
        assert_eq!(why(default.clone(), WHOLE, "web:100000:65536\n"), None);
        assert_eq!(why(60_578..=61_183, WHOLE, ""), None);
        for (range, word) in [
            (1000..=2000, "people"),
            (60_000..=60_600, "people"),
            (61_000..=61_184, "systemd"),
            (65_535..=65_535, "nobody"),
            (RangeInclusive::new(100, 99), "last"),
            (70_000..=u32::MAX, "last"),
        ] {
            let why = why(range.clone(), WHOLE, "").unwrap_or_else(|| panic!("{range:?}"));
            assert!(why.contains(word), "{range:?}: {why}");
        }
        let sub = "# note\nweb:100000:65536\nbroken\nok:300000:0\n";
        assert!(why(165_535..=165_540, WHOLE, sub).is_some_and(|why| why.contains("`web`")));
        assert_eq!(why(165_536..=165_540, WHOLE, sub), None);
        assert!(why(default, "0 100000 65536\n", "").is_some_and(|why| why.contains("container")));
        assert_eq!(why(60_578..=61_183, "0 100000 65536\n", ""), None);
    }

    #[test]
    fn users_and_groups_of_the_host_are_left_out() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nx:x:60580:60581:60582,,,:/:/bin/sh\nbroken\n".to_owned();
        let group = "g:x:60590:x\n".to_owned();
        assert_eq!(taken(&(60_578..=61_183), &[passwd, group]), BTreeSet::from([60_580, 60_581, 60_590]));
    }
}
