//! The packages there are, and what each holds.

/// Beside systemd's own programs `ip` makes the links of the self-test, git fetches by https and ssh, and busctl talks to
/// the system bus. All of it is Depends: who installs without what is recommended would miss it later.
const AGENT_NEEDS: &str = "systemd (>= 247), default-dbus-system-bus | dbus-system-bus, nftables, iproute2, git, \
                           ca-certificates, openssh-client, passwd";
/// git asks repositories what their branches point at.
const CONTROL_NEEDS: &str = "systemd (>= 247), git, ca-certificates, openssh-client, passwd";

#[derive(Debug)]
pub(super) struct Product {
    pub(super) name: &'static str,
    pub(super) programs: &'static [&'static str],
    /// From the tree of the workspace to that of the host.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// Units whose names begin so.
    pub(super) units: &'static str,
    /// Folder of the maintainer scripts, and which there are.
    pub(super) scripts: (&'static str, &'static [&'static str]),
    /// Settings of the owner, which no upgrade overwrites.
    pub(super) conffiles: &'static str,
    /// By shell, where completions of the program go that prints them.
    pub(super) completions: Option<(&'static str, &'static [(&'static str, &'static str)])>,
    pub(super) needs: &'static str,
    pub(super) description: &'static str,
}

pub(super) const AGENT: Product = Product {
    name: "agentd",
    programs: &["agentd", "agentctl"],
    files: &[
        ("systemd/agentd.sysusers", "usr/lib/sysusers.d/agentd.conf"),
        ("systemd/agentd.tmpfiles", "usr/lib/tmpfiles.d/agentd.conf"),
        ("packaging/agentd.toml", "etc/agentd/agentd.toml"),
        ("packaging/stack.toml.example", "usr/share/doc/agentd/stack.toml.example"),
    ],
    units: "agentd",
    scripts: ("packaging/deb", &["preinst", "postinst", "prerm", "postrm"]),
    conffiles: "/etc/agentd/agentd.toml\n",
    completions: Some((
        "agentctl",
        &[
            ("bash", "usr/share/bash-completion/completions/agentctl"),
            ("zsh", "usr/share/zsh/vendor-completions/_agentctl"),
            ("fish", "usr/share/fish/vendor_completions.d/agentctl.fish"),
        ],
    )),
    needs: AGENT_NEEDS,
    description: "turns a host into a small, dark, self-healing platform\n \
                  agentd clones, builds, runs and supervises the services of a stack file, routes\n \
                  requests to them by path, lets them reach each other by name, and shuts the\n \
                  host's inbound side to the degree chosen.\n",
};

pub(super) const CONTROL: Product = Product {
    name: "agentd-control",
    programs: &["controld"],
    files: &[("systemd/controld.sysusers", "usr/lib/sysusers.d/controld.conf")],
    units: "controld",
    scripts: ("packaging/deb-control", &["postinst", "prerm", "postrm"]),
    conffiles: "",
    completions: None,
    needs: CONTROL_NEEDS,
    description: "hands out stacks to hosts that run agentd, and shows what they do\n \
                  controld keeps and signs what hosts should run, and shows what they report. It\n \
                  never logs in to a host, and no host stops anything when it is away.\n",
};
