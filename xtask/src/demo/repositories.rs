//! Each folder of examples/ as a git repository of its own.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::console::say;

pub(super) const EXAMPLES: [&str; 3] = ["site", "notes", "board"];

/// Whose commits may be followed by newer examples.
const AUTHOR: &str = "agentd demo";

/// Makes the repository, or brings newer examples into it. Once somebody else has committed there, it is theirs.
pub(super) fn ensure(example: &Path, repository: &Path) -> Result<()> {
    if !repository.join(".git").exists() {
        fs::create_dir_all(repository).with_context(|| format!("create {}", repository.display()))?;
        git(repository, &["init", "--quiet", "--initial-branch=main"])?;
    } else if git(repository, &["log", "--format=%an"])?.lines().any(|author| author != AUTHOR) {
        say(&format!("demo: {} has commits of yours and stays as it is", repository.display()));
        return Ok(());
    }
    copy(example, repository)?;
    git(repository, &["add", "--all"])?;
    if git(repository, &["status", "--porcelain"])?.is_empty() {
        return Ok(());
    }
    let identity = [format!("user.name={AUTHOR}"), "user.email=demo@example.com".to_owned()];
    git(repository, &["-c", &identity[0], "-c", &identity[1], "commit", "--quiet", "--message", "The example as it is"])
        .map(drop)
}

/// Without the machine's or the user's configuration: no hooks, no signing, no other default branch.
pub(super) fn git(repository: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .current_dir(repository)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("start git")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("git {} in {}: {said}", arguments.join(" "), repository.display());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Files and folders, modes included; what builds leave behind is in `.gitignore` and never in the tree.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| format!("copy to {}", target.display()))?;
        }
    }
    Ok(())
}
