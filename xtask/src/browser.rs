//! The dashboard of controld in a real browser. A door of its own, outside ci: it wants Chromium, and two packages from
//! npm's registry (their hashes stand in tests/browser/package-lock.json).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::Line;
use crate::setup;

const LOCK: &str = "package-lock.json";
const FILES: [&str; 4] = ["package.json", LOCK, "dashboard.mjs", "server.mjs"];
/// Under the workspace; holds the packages and the servers' homes.
const DIR: &str = "target/browser";
const SCREENSHOTS_DIR: &str = "docs/dashboard";

pub(crate) fn run(root: &Path, options: &[String]) -> Result<()> {
    let keeps_screenshots = match options {
        [] => false,
        [one] if one == "--screenshots" => true,
        _ => bail!(
            "usage: cargo xtask browser [--screenshots]; with it, the pictures of {SCREENSHOTS_DIR} are made anew"
        ),
    };
    setup::for_browser(root)?;
    let dir = root.join(DIR);
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let has_packages = are_installed(root, &dir);
    for file in FILES {
        fs::copy(root.join("tests/browser").join(file), dir.join(file)).with_context(|| format!("copy {file}"))?;
    }
    if !has_packages {
        Line::new("npm ci --ignore-scripts --no-audit --no-fund --loglevel=error --fetch-timeout=60000 --prefix")
            .argument(DIR)
            .run(root)?;
    }
    Line::new("cargo build --workspace --example dashboard --bin controld --locked").run(root)?;
    let own = std::env::current_exe().context("find our own program")?;
    let programs_dir = own.parent().context("our program lies in a target folder")?;
    let walk = Line::new(&format!("node {DIR}/dashboard.mjs"))
        .argument(programs_dir.join("examples/dashboard").display().to_string())
        .argument(programs_dir.join("controld").display().to_string())
        .argument(format!("{DIR}/walk"));
    if keeps_screenshots { walk.argument(SCREENSHOTS_DIR).run(root) } else { walk.run(root) }
}

/// The registry is asked once, and again when other packages are wanted.
fn are_installed(root: &Path, dir: &Path) -> bool {
    let lock = |path: PathBuf| fs::read(path).ok();
    let wanted = lock(root.join("tests/browser").join(LOCK));
    // npm writes the hidden one when it is done.
    wanted.is_some() && lock(dir.join(LOCK)) == wanted && dir.join("node_modules/.package-lock.json").is_file()
}
