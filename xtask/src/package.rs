//! `cargo xtask package`: a Debian package from a staged tree and `dpkg-deb`. The same input gives the same bytes: every
//! time in it is SOURCE_DATE_EPOCH, or that of the last commit.

mod control;
mod options;
mod product;
mod stage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command::Line;
use crate::console::say;
use options::{Binaries, Options, Profile};
use product::Product;

/// Of a machine that cannot tell the time of its commit: 2026-01-01.
const EPOCH_UNIX_S: &str = "1767225600";

pub(crate) fn run(root: &Path, words: &[String]) -> Result<()> {
    let Some(options) = options::parse(words)? else {
        say(options::USAGE);
        return Ok(());
    };
    let out = options.out.clone().unwrap_or_else(|| root.join("target/package"));
    let (binaries, products): (PathBuf, &[Product]) = match &options.binaries {
        // Who hands programs over has those of the agent.
        Binaries::Built(dir) => (dir.clone(), &[product::AGENT]),
        Binaries::ToBuild(profile) => (compile(root, *profile)?, &[product::AGENT, product::CONTROL]),
    };
    for product in products {
        let deb = build(product, root, &binaries, &out, &options)?;
        say(&format!("package: {}", deb.display()));
    }
    sums(&out)
}

fn build(product: &Product, root: &Path, binaries: &Path, out: &Path, options: &Options) -> Result<PathBuf> {
    let version = format!("{}{}", env!("CARGO_PKG_VERSION"), options.version_suffix);
    let staged = out.join(format!("staged-{}-{version}", product.name));
    if staged.exists() {
        fs::remove_dir_all(&staged).with_context(|| format!("remove {}", staged.display()))?;
    }
    let strip = matches!(options.binaries, Binaries::ToBuild(_));
    stage::fill(product, root, binaries, &staged, strip)?;
    let control = control::text(product, &version, &architecture(root)?, &staged)?;
    stage::write(&staged.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
    let deb = out.join(format!("{}_{version}_{}.deb", product.name, architecture(root)?));
    let mut line =
        Line::new("dpkg-deb --build --root-owner-group --uniform-compression").set("SOURCE_DATE_EPOCH", &epoch(root));
    if options.compression() == options::Compression::Quick {
        line = line.argument("-Zgzip").argument("-z1");
    }
    line.argument(path(&staged)?).argument(path(&deb)?).run(root)?;
    // The folder is what somebody copies to a server.
    fs::remove_dir_all(&staged).with_context(|| format!("remove {}", staged.display()))?;
    Ok(deb)
}

/// Of every package in the folder, as install.sh and sha256sum(1) read it.
fn sums(out: &Path) -> Result<()> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(out).with_context(|| format!("read {}", out.display()))? {
        names.extend(entry?.file_name().into_string().ok().filter(|name| name.ends_with(".deb")));
    }
    names.sort();
    let output = Command::new("sha256sum").arg("--").args(&names).current_dir(out).output().context("sha256sum")?;
    if !output.status.success() {
        bail!("sha256sum ended with {}", output.status);
    }
    stage::write(&out.join("SHA256SUMS"), &output.stdout, 0o644)
}

/// All of the workspace, as every other build: to name packages would choose other features.
fn compile(root: &Path, profile: Profile) -> Result<PathBuf> {
    let line = Line::new("cargo build --workspace --locked --profile").argument(profile.name());
    line.run(root)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(root.join(target).join(profile.dir()))
}

fn architecture(root: &Path) -> Result<String> {
    said(root, Command::new("dpkg").arg("--print-architecture")).context("dpkg --print-architecture")
}

fn epoch(root: &Path) -> String {
    let of_commit = || said(root, Command::new("git").args(["log", "-1", "--format=%ct"])).ok();
    std::env::var("SOURCE_DATE_EPOCH").ok().or_else(of_commit).unwrap_or_else(|| EPOCH_UNIX_S.to_owned())
}

/// The one line a program prints.
fn said(root: &Path, command: &mut Command) -> Result<String> {
    let output = command.current_dir(root).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("it ended with {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
