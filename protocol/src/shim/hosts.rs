//! A private /etc/hosts: an instance sees a file of the manager's in the place of the machine's own, so that every C
//! library resolves the names of the services. It takes a mount namespace, for a plain user a user namespace as well,
//! and many hosts refuse those: what was refused, and what the host's owner can do about it (pure).

/// What is covered in the instance's own mount namespace.
pub const MACHINE_HOSTS_FILE: &str = "/etc/hosts";

/// Verb of the shim that goes the whole way in a process of its own and ends: status 0, or [`Refused::line`] on stdout
/// and status 1.
pub const TRY_VERB: &str = "try-hosts";
/// Verb of the shim that covers /etc/hosts again in the namespace of a running instance: `PID INSTANCE FILE`.
pub const RENEW_VERB: &str = "renew-hosts";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// unshare(2) or, for a running instance, setns(2).
    Namespace,
    /// Mapping the user to itself in the new user namespace.
    Identity,
    /// Keeping mounts of the new namespace from showing in the machine's.
    Propagation,
    /// The mount over /etc/hosts.
    Bind,
}

const STEPS: [(Step, &str); 4] = [
    (Step::Namespace, "namespace"),
    (Step::Identity, "identity"),
    (Step::Propagation, "propagation"),
    (Step::Bind, "bind"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub step: Step,
    pub errno: i32,
}

/// What the host says about namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub user: User,
    /// kernel.apparmor_restrict_unprivileged_userns
    pub apparmor_restricts: bool,
    /// user.max_user_namespaces; `None` where the kernel has none.
    pub user_namespaces_max: Option<u64>,
    /// kernel.unprivileged_userns_clone, a switch of some distributions, is there and off.
    pub unprivileged_clone_off: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    Root,
    Plain,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    pub cause: String,
    pub cure: String,
}

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;

impl Refused {
    /// `bind 2`
    pub fn line(&self) -> String {
        let name = STEPS.iter().find(|(step, _)| *step == self.step).map_or("", |(_, name)| name);
        format!("{name} {}", self.errno)
    }

    pub fn parse(line: &str) -> Option<Self> {
        let (name, errno) = line.trim().split_once(' ')?;
        let (step, _) = STEPS.iter().find(|(_, known)| *known == name)?;
        Some(Self { step: *step, errno: errno.parse().ok()? })
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.step {
            Step::Namespace => "a mount namespace",
            Step::Identity => "the user's own id in a user namespace",
            Step::Propagation => "a mount table of its own",
            Step::Bind => "a mount over /etc/hosts",
        };
        write!(f, "{what} is refused: {}", std::io::Error::from_raw_os_error(self.errno))
    }
}

/// Settings of the host that keep plain users from namespaces whoever tries; also right before anything was tried.
pub fn forbidden(facts: &Facts) -> Option<Advice> {
    if facts.user == User::Root {
        return None;
    }
    let advice = |cause: &str, cure: &str| Some(Advice { cause: cause.to_owned(), cure: cure.to_owned() });
    if facts.user_namespaces_max == Some(0) {
        return advice("user namespaces are switched off", "as root: `sysctl -w user.max_user_namespaces=15000`");
    }
    if facts.unprivileged_clone_off {
        return advice(
            "plain users may not make user namespaces",
            "as root: `sysctl -w kernel.unprivileged_userns_clone=1`",
        );
    }
    if facts.apparmor_restricts {
        return advice(
            "AppArmor keeps plain users from user namespaces",
            "as root: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run agentd as root",
        );
    }
    None
}

/// The likeliest cause, and what to do.
pub fn advice(refused: &Refused, facts: &Facts) -> Advice {
    let told = |cure: &str| Advice { cause: refused.to_string(), cure: cure.to_owned() };
    match (refused.step, refused.errno) {
        (Step::Bind, ENOENT) => told("create /etc/hosts"),
        (Step::Propagation, EINVAL) => told(
            "/ is no mount point, as in a chroot: start agentd outside of it, or `mount --bind` its folder onto itself",
        ),
        (Step::Namespace, ENOSPC) => {
            told("too many namespaces: raise user.max_mnt_namespaces and user.max_user_namespaces by sysctl")
        }
        (Step::Namespace | Step::Identity | Step::Propagation | Step::Bind, _) => {
            if let Some(advice) = forbidden(facts) {
                return advice;
            }
            match (facts.user, refused.errno) {
                (User::Root, EPERM) => told("in a container: give it CAP_SYS_ADMIN"),
                (User::Root | User::Plain, _) => told(
                    "a seccomp filter or security module of this container or host forbids it: allow namespaces and mounts there",
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Facts = Facts {
        user: User::Plain,
        apparmor_restricts: false,
        user_namespaces_max: Some(1000),
        unprivileged_clone_off: false,
    };

    #[test]
    fn a_refusal_survives_its_line() {
        for (step, _) in STEPS {
            let refused = Refused { step, errno: 13 };
            assert_eq!(Refused::parse(&format!("{}\n", refused.line())), Some(refused));
        }
        assert_eq!(Refused::parse("bind"), None);
        assert_eq!(Refused::parse("other 1"), None);
    }

    #[test]
    fn each_cause_has_its_own_cure() {
        let refused = |step, errno| Refused { step, errno };
        let denied = refused(Step::Namespace, EPERM);
        let cases = [
            (denied, Facts { user_namespaces_max: Some(0), ..FREE }, "user.max_user_namespaces"),
            (denied, Facts { unprivileged_clone_off: true, ..FREE }, "unprivileged_userns_clone=1"),
            (refused(Step::Identity, 13), Facts { apparmor_restricts: true, ..FREE }, "apparmor_restrict"),
            (denied, FREE, "seccomp"),
            (denied, Facts { user: User::Root, apparmor_restricts: true, ..FREE }, "CAP_SYS_ADMIN"),
            (refused(Step::Bind, ENOENT), FREE, "create /etc/hosts"),
            (refused(Step::Propagation, EINVAL), FREE, "chroot"),
            (refused(Step::Namespace, ENOSPC), FREE, "max_mnt_namespaces"),
        ];
        for (refused, facts, word) in cases {
            let advice = advice(&refused, &facts);
            assert!(advice.cure.contains(word), "{refused:?} {facts:?}: {advice:?}");
            assert!(!advice.cause.is_empty());
        }
    }
}
