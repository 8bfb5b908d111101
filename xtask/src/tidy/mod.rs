//! Rules about the tree that no compiler knows. Each rule is one file and one pure function from a file to findings;
//! this page reads the tree, runs all of them and reports everything at once.

mod arrows;
mod banned;
mod rooms;
mod sizes;
mod source;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::console::say;
use sizes::Ratchet;
use source::{Finding, Source};

/// Tolerated sizes.
const RATCHET_PATH: &str = "xtask/tidy.toml";
/// Hidden folders that belong to the tree; all others are tools' own.
const HIDDEN_DIRS: &[&str] = &[".ci", ".cargo", ".config", ".github"];
/// What builds, interpreters and git (a file, in a worktree) leave behind.
const FOREIGN: &[&str] = &["target", "node_modules", "__pycache__", ".git"];
/// Kinds of files people write. Files without an extension are read if they are text.
const TEXT_KINDS: &[&str] =
    &["rs", "md", "toml", "sh", "py", "js", "html", "css", "service", "socket", "conf", "yml", "yaml", ""];
/// Deeper than any folder of ours; a loop of links ends here.
const DEPTH_MAX: usize = 16;

/// Checks the whole tree under `root`. Fails with the number of findings after printing each.
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut sources = Vec::new();
    collect(root, root, 0, &mut sources)?;
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    let findings = judge(&sources);
    for finding in &findings {
        say(&format!("{}:{}: {} ({})", finding.path, finding.line, finding.what, finding.cure));
    }
    if !findings.is_empty() {
        bail!("{} findings in {} files", findings.len(), sources.len());
    }
    say(&format!("tidy: {} files, nothing found", sources.len()));
    Ok(())
}

fn judge(sources: &[Source]) -> Vec<Finding> {
    let list = sources.iter().find(|source| source.path == RATCHET_PATH);
    let (mut ratchet, mut findings) = list.map(Ratchet::read).unwrap_or_default();
    for source in sources {
        findings.extend(arrows::check(source));
        findings.extend(sizes::check(source, &mut ratchet));
        findings.extend(banned::check(source));
        findings.extend(rooms::check(source));
    }
    findings.extend(list.map(|list| ratchet.stale(list)).unwrap_or_default());
    findings.sort();
    findings.dedup();
    findings
}

fn collect(root: &Path, dir: &Path, depth: usize, sources: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        if FOREIGN.contains(&name.as_str()) {
            continue;
        }
        let is_shown = !name.starts_with('.') || HIDDEN_DIRS.contains(&name.as_str());
        if kind.is_dir() && is_shown && depth < DEPTH_MAX {
            collect(root, &path, depth + 1, sources)?;
        }
        let extension = path.extension().map(|extension| extension.to_string_lossy()).unwrap_or_default();
        if !kind.is_file() || !TEXT_KINDS.contains(&extension.as_ref()) {
            continue;
        }
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        match String::from_utf8(bytes) {
            Ok(text) => sources.push(Source::new(&relative, &text)),
            Err(_) if extension.is_empty() => {} // a program or an image, not for people
            Err(error) => bail!("{relative} is not UTF-8 text: {error}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rules_report_at_once_in_the_order_of_the_tree() {
        let sources = [
            Source::new("agent/src/store/mod.rs", "use crate::source::x;\n#[allow(x)]\nfn f() {}\n"),
            Source::new(RATCHET_PATH, "\"gone.rs\" = 700\n"),
        ];
        let lines: Vec<(String, usize)> =
            judge(&sources).into_iter().map(|finding| (finding.path, finding.line)).collect();
        let store = || "agent/src/store/mod.rs".to_owned();
        assert_eq!(lines, [(store(), 1), (store(), 1), (store(), 2), (RATCHET_PATH.to_owned(), 1)]);
    }
}
