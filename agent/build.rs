//! Builds the shim that agentd carries inside itself: another target, profile and set of features than agentd's own,
//! so it takes a cargo call of its own.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the shim is made of. Its tests are not.
const INPUTS: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    "shim/Cargo.toml",
    "shim/src",
    "protocol/Cargo.toml",
    "protocol/src",
    "sys/Cargo.toml",
    "sys/src",
];
const PROFILE: &str = "shim";
const BINARY: &str = "agentd-shim";
/// Ours are in the environment for agentd's sake and would change the shim, or run clippy over it.
const NOT_INHERITED: [&str; 7] = [
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_TARGET_DIR",
    "CARGO_PROFILE_RELEASE_STRIP",
];

/// What the shim is built for, and the only compiler flags it gets.
struct Build {
    target: String,
    flags: &'static str,
}

fn main() {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("..");
    let out_dir = PathBuf::from(variable("OUT_DIR"));
    for input in INPUTS {
        println!("cargo:rerun-if-changed={}", root.join(input).display());
    }
    let build = choose();
    let target_dir = target_dir(&out_dir);
    let mut cargo = Command::new(variable("CARGO"));
    cargo.args(["build", "--locked", "--package", BINARY, "--bin", BINARY, "--profile", PROFILE]);
    cargo.arg("--target").arg(&build.target);
    cargo.arg("--target-dir").arg(&target_dir);
    cargo.arg("--manifest-path").arg(root.join("Cargo.toml"));
    for name in NOT_INHERITED {
        cargo.env_remove(name);
    }
    // Wins over every other source of flags, and with --target reaches no build script.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", build.flags);
    let status = cargo.status().expect("cargo starts: it has started us");
    assert!(status.success(), "the shim does not build; see cargo's messages above");
    let built = target_dir.join(&build.target).join(PROFILE).join(BINARY);
    std::fs::copy(&built, out_dir.join(BINARY)).expect("cargo has just put the shim there");
}

/// Static musl where its library is installed; else static glibc, so that the shim never needs a loader.
fn choose() -> Build {
    let musl = format!("{}-unknown-linux-musl", variable("CARGO_CFG_TARGET_ARCH"));
    if is_installed(&musl) {
        return Build { target: musl, flags: "-Crelocation-model=static" };
    }
    println!(
        "cargo:warning=the target {musl} is not installed (rustup target add {musl}): the shim is built with static \
         glibc instead; it works, but every instance costs about 100 KiB more"
    );
    Build { target: variable("TARGET"), flags: "-Ctarget-feature=+crt-static" }
}

fn is_installed(target: &str) -> bool {
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--print", "target-libdir", "--target", target]);
    let Ok(output) = rustc.output() else { return false };
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success() && Path::new(text.trim()).is_dir()
}

/// A target folder apart from agentd's, whose lock the outer cargo holds while we run. One for all of check, clippy and
/// build, which have an OUT_DIR each: `<target>/<profile>/build/agentd-<hash>/out`.
fn target_dir(out_dir: &Path) -> PathBuf {
    match out_dir.ancestors().nth(2) {
        Some(build) if build.ends_with("build") => build.with_file_name("shim-build"),
        Some(_) | None => out_dir.join("shim-build"),
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
