//! The dashboard of controld in a real browser. A door of its own, outside ci: it wants Chromium, and two packages from
//! npm's registry (their hashes stand in tests/browser/package-lock.json).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::Line;
use crate::setup;

const PROGRAMS: [&str; 3] = ["chromium", "node", "npm"];
const FILES: [&str; 3] = ["package.json", "package-lock.json", "dashboard.mjs"];
/// Under the workspace; holds the packages and the server's home.
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
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(|name| setup::find_program(name).is_none()).collect();
    if !missing.is_empty() {
        bail!(
            "missing: {}; run: sudo apt-get install --no-install-recommends -y chromium nodejs npm",
            missing.join(" ")
        );
    }
    let dir = root.join(DIR);
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    for file in FILES {
        fs::copy(root.join("tests/browser").join(file), dir.join(file)).with_context(|| format!("copy {file}"))?;
    }
    Line::new("npm ci --ignore-scripts --no-audit --no-fund --loglevel=error --prefix").argument(DIR).run(root)?;
    Line::new("cargo build --workspace --example dashboard --locked --target-dir target").run(root)?;
    let walk = Line::new(&format!("node {DIR}/dashboard.mjs target/debug/examples/dashboard {DIR}/home"));
    if keeps_screenshots { walk.argument(SCREENSHOTS_DIR).run(root) } else { walk.run(root) }
}
