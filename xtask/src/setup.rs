//! What a machine needs before the tree builds and its tests run, and how each piece gets there.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::command::Line;
use crate::console::say;
use crate::doors;

/// The versions CI runs; another one already installed is used as it is.
const NEXTEST_VERSION: &str = "0.9.151";
const DENY_VERSION: &str = "0.20.2";
const SHIM_TARGET: &str = "x86_64-unknown-linux-musl";
/// Where a plain user's PATH does not look though the programs are there.
const SYSTEM_DIRS: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A Debian package, and how to see that what we need of it is there.
struct Package {
    name: &'static str,
    proof: Proof,
    purpose: Purpose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Building, the tests and the demo.
    Everything,
    Tests,
    Demo,
    /// The dashboard in a real one.
    Browser,
}

enum Proof {
    Program(&'static str),
    /// A command that succeeds.
    Answer(&'static str, &'static [&'static str]),
}

const PACKAGES: &[Package] = &[
    package("build-essential", Proof::Program("cc"), Purpose::Everything),
    package("cmake", Proof::Program("cmake"), Purpose::Everything),
    package("git", Proof::Program("git"), Purpose::Everything),
    // Debian splits venv's other half off: python3 alone cannot make one.
    package("python3-venv", Proof::Answer("python3", &["-c", "import venv, ensurepip"]), Purpose::Everything),
    // ssh and ssh-keygen, which git only recommends.
    package("openssh-client", Proof::Program("ssh-keygen"), Purpose::Tests),
    package("nodejs", Proof::Program("node"), Purpose::Everything),
    // Debian splits it off nodejs, others do not.
    package("npm", Proof::Program("npm"), Purpose::Demo),
    package("chromium", Proof::Program("chromium"), Purpose::Browser),
    package("openssl", Proof::Program("openssl"), Purpose::Browser),
    package("iproute2", Proof::Program("ip"), Purpose::Tests),
    package("nftables", Proof::Program("nft"), Purpose::Tests),
    package("ufw", Proof::Program("ufw"), Purpose::Tests),
    // Certificates of a control server.
    package("openssl", Proof::Program("openssl"), Purpose::Tests),
    // The root tree of the test hosts.
    package("debootstrap", Proof::Program("debootstrap"), Purpose::Tests),
];

const fn package(name: &'static str, proof: Proof, purpose: Purpose) -> Package {
    Package { name, proof, purpose }
}

pub(crate) fn run(root: &Path) -> Result<()> {
    packages(root, &[Purpose::Tests])?;
    shim_target(root);
    ensure_nextest(root)?;
    ensure_deny(root)?;
    test_hosts(root)?;
    say("setup: everything is here");
    Ok(())
}

/// What the demo builds and runs with, and no more.
pub(crate) fn for_demo(root: &Path) -> Result<()> {
    packages(root, &[Purpose::Demo])?;
    shim_target(root);
    Ok(())
}

/// What the walk needs, and the demo's npm.
pub(crate) fn for_browser(root: &Path) -> Result<()> {
    packages(root, &[Purpose::Demo, Purpose::Browser])
}

fn packages(root: &Path, purposes: &[Purpose]) -> Result<()> {
    let is_wanted = |package: &Package| package.purpose == Purpose::Everything || purposes.contains(&package.purpose);
    let is_missing = |package: &&Package| is_wanted(package) && !is_there(root, &package.proof);
    let missing: Vec<&str> = PACKAGES.iter().filter(is_missing).map(|package| package.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !doors::is_root()? {
        bail!("missing: {names}; run: sudo apt-get install --no-install-recommends -y {names}");
    }
    say(&format!("setup: installing {names}"));
    let install = Line::new(&format!("apt-get install --no-install-recommends -y {names}"))
        .set("DEBIAN_FRONTEND", "noninteractive");
    // A fresh image has no package lists; a machine in use has, and asking the mirror again takes its time.
    if !install.succeeds(root) {
        Line::new("apt-get update").run(root)?;
        install.run(root)?;
    }
    match PACKAGES.iter().find(is_missing) {
        Some(package) => bail!("{} is installed, yet what we need of it is not found in PATH", package.name),
        None => Ok(()),
    }
}

fn is_there(root: &Path, proof: &Proof) -> bool {
    match proof {
        Proof::Program(name) => find_program(name).is_some(),
        Proof::Answer(program, arguments) => {
            arguments.iter().fold(Line::new(program), |line, word| line.argument(*word)).succeeds(root)
        }
    }
}

/// The root tree of the systemd hosts behind test-root, which only root can make and use.
fn test_hosts(root: &Path) -> Result<()> {
    if doors::is_root()? {
        Line::new("sh tests/src/host/base.sh").run(root)?;
    }
    Ok(())
}

/// The shim is to be small and without a loader: musl. Without that target it is linked statically against glibc.
fn shim_target(root: &Path) {
    let add = Line::new(&format!("rustup target add {SHIM_TARGET}"));
    if !add.succeeds(root) {
        say(&format!(
            "setup: the target {SHIM_TARGET} cannot be had here; the shim will be built against glibc, statically.\n\
             setup: to add it later: {add}"
        ));
    }
}

pub(crate) fn ensure_nextest(root: &Path) -> Result<()> {
    ensure_tool(root, "cargo-nextest", NEXTEST_VERSION, "--no-default-features --features default-no-update")
}

pub(crate) fn ensure_deny(root: &Path) -> Result<()> {
    ensure_tool(root, "cargo-deny", DENY_VERSION, "")
}

/// Installs a cargo subcommand unless there is one. Built in a folder of its own: our target directory stays ours.
/// Unoptimised: on two cores both tools take 3 min to build like that and 8 min in release, and either is quick enough.
fn ensure_tool(root: &Path, name: &str, version: &str, options: &str) -> Result<()> {
    if find_program(name).is_some() {
        return Ok(());
    }
    say(&format!("setup: {name} is missing; building {version} from source, which takes minutes"));
    Line::new(&format!("cargo install {name} --debug --locked --version {version} {options}"))
        .set("CARGO_PROFILE_DEV_DEBUG", "0")
        .unset("CARGO_TARGET_DIR")
        .run(root)
}

/// Looks where a shell or cargo would.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")));
    let dirs = std::env::split_paths(&path).chain(SYSTEM_DIRS.iter().map(PathBuf::from));
    dirs.chain(cargo.map(|home| home.join("bin"))).map(|dir| dir.join(name)).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_the_path() {
        assert!(find_program("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find_program("no-such-program-here"), None);
    }
}
