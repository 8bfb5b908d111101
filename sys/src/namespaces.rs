//! What this host says about namespaces, for whoever explains why one was refused.

use agentd_protocol::shim::hosts::{Facts, User};

pub fn facts() -> Facts {
    Facts {
        user: if nix::unistd::geteuid().is_root() { User::Root } else { User::Plain },
        apparmor_restricts: setting("kernel/apparmor_restrict_unprivileged_userns") == Some(1),
        user_namespaces_max: setting("user/max_user_namespaces"),
        unprivileged_clone_off: setting("kernel/unprivileged_userns_clone") == Some(0),
    }
}

/// `None` where the kernel has no such setting.
fn setting(name: &str) -> Option<u64> {
    std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().parse().ok()
}
