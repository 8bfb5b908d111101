//! `cargo xtask figures --control`: builds controld and the simulated fleet, and hands over to the fleet's own program,
//! which speaks the agent's protocol and so needs what xtask goes without.

use std::path::Path;

use anyhow::{Context, Result};

use crate::command::Line;

/// All options but `--release` are the fleet's.
pub(crate) fn run(root: &Path, options: &[String]) -> Result<()> {
    let is_release = options.iter().any(|option| option == "--release");
    let (flag, folder) = if is_release { (" --release", "release") } else { ("", "debug") };
    Line::new(&format!("cargo build --workspace --bins --locked{flag}")).run(root)?;
    let own = std::env::current_exe().context("find our own program")?;
    let target_dir = own.parent().and_then(Path::parent).context("our program lies in a target folder")?;
    let programs_dir = target_dir.join(folder);
    let line = Line::program(&programs_dir.join("control-fleet"))
        .argument("--programs-dir")
        .argument(programs_dir.display().to_string());
    options.iter().filter(|option| *option != "--release").fold(line, |line, option| line.argument(option)).run(root)
}
