//! The demo's own folder: repositories, stack file, home. Kept between two runs, removed only where it is ours.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::options::Hosts;
use super::repositories;
use crate::console::say;

/// In the folder of every demo: without it nothing is ever removed.
const MARK: &str = ".agentd-demo";
const EXAMPLES: &str = "examples";
const TEMPLATE: &str = "stack.toml.in";

#[derive(Debug)]
pub(super) struct Folder {
    pub(super) dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Everything has to be built.
    Cold,
    /// A demo ran here before; its builds are still there.
    Warm,
}

impl Folder {
    /// Not below a home: started as root, services run as an unprivileged user, who may not enter `/root`.
    pub(super) fn at(dir: Option<PathBuf>, hosts: Hosts) -> Result<Self> {
        let uid = fs::metadata("/proc/self").context("look at /proc/self")?.uid();
        let usual = match hosts {
            Hosts::One => format!("/var/tmp/agentd-demo-{uid}"),
            Hosts::Two => format!("/var/tmp/agentd-demo-control-{uid}"),
        };
        let folder = Self { dir: dir.unwrap_or_else(|| PathBuf::from(usual)) };
        match fs::symlink_metadata(&folder.dir) {
            // Anyone may have made that name in a shared folder.
            Ok(found) if found.uid() != uid => {
                bail!("{} belongs to another user; name another folder with --dir DIR", folder.dir.display())
            }
            Ok(found) if !found.is_dir() => {
                bail!("{} is no folder; name another with --dir DIR", folder.dir.display())
            }
            Ok(_) => Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(folder),
            Err(error) => Err(error).with_context(|| format!("look at {}", folder.dir.display())),
        }
    }

    /// Makes what is missing. What a person has committed in the repositories stays.
    pub(super) fn prepare(&self, root: &Path, port: u16) -> Result<Start> {
        // What agentd built last time; a first start may have come no further than this function.
        let warm = self.home().join("state/services").is_dir();
        if !self.is_ours() && self.dir.exists() && fs::read_dir(&self.dir)?.next().is_some() {
            bail!("{} is not empty and no demo's folder; name another with --dir DIR", self.dir.display());
        }
        fs::create_dir_all(&self.dir).with_context(|| format!("create {}", self.dir.display()))?;
        fs::set_permissions(&self.dir, Permissions::from_mode(0o755))?;
        fs::write(self.dir.join(MARK), "made by `cargo xtask demo`, removed by `cargo xtask demo --clean`\n")?;
        let examples = root.join(EXAMPLES);
        for name in repositories::EXAMPLES {
            repositories::ensure(&examples.join(name), &self.repository(name))?;
        }
        fs::create_dir_all(self.home())?;
        // Beside the port that was chosen, so that one option moves all of them.
        let ports = format!("[ports]\ninternal = {}\ndns = {}\n", port + 1, port + 2);
        write(&self.home().join("agentd.toml"), &ports)?;
        let template = fs::read_to_string(examples.join(TEMPLATE)).context("read the example stack")?;
        let repositories = format!("file://{}", self.dir.join("repositories").display());
        write(&self.stack_file(), &template.replace("@REPOS@", &repositories).replace("@PORT@", &port.to_string()))?;
        Ok(if warm { Start::Warm } else { Start::Cold })
    }

    /// A folder that is not there is clean already.
    pub(super) fn remove(&self) -> Result<()> {
        if !self.dir.exists() {
            say(&format!("demo: {} is not there: nothing to remove", self.dir.display()));
            return Ok(());
        }
        if !self.is_ours() {
            bail!("{} was not made by a demo; it stays", self.dir.display());
        }
        fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display()))?;
        say(&format!("demo: {} is removed", self.dir.display()));
        Ok(())
    }

    pub(super) fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    pub(super) fn stack_file(&self) -> PathBuf {
        self.dir.join("stack.toml")
    }

    pub(super) fn repository(&self, name: &str) -> PathBuf {
        self.dir.join("repositories").join(name)
    }

    fn is_ours(&self) -> bool {
        self.dir.join(MARK).is_file()
    }
}

/// By rename, as agentd watches the stack file.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("write {}", path.display()))
}

/// A secret.
pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).with_context(|| format!("write {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    #[test]
    fn a_folder_is_made_found_again_and_removed() {
        let dir = std::env::temp_dir().join(format!("agentd-demo-test-{}", std::process::id()));
        let folder = Folder::at(Some(dir.clone()), Hosts::One).unwrap();
        assert_eq!(folder.prepare(root(), 9000).unwrap(), Start::Cold);
        let stack = fs::read_to_string(folder.stack_file()).unwrap();
        assert!(stack.contains("port = 9000") && !stack.contains('@'), "{stack}");
        let page = folder.repository("site").join("src/index.html");
        fs::write(&page, "mine").unwrap();
        repositories::git(
            &folder.repository("site"),
            &["-c", "user.name=me", "-c", "user.email=me@example.com", "commit", "-qam", "mine"],
        )
        .unwrap();
        fs::create_dir_all(folder.home().join("state/services")).unwrap();
        assert_eq!(folder.prepare(root(), 9000).unwrap(), Start::Warm);
        assert_eq!(fs::read_to_string(&page).unwrap(), "mine", "commits of others stay");
        folder.remove().unwrap();
        assert!(!dir.exists());
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("precious"), "").unwrap();
        assert!(folder.prepare(root(), 9000).is_err() && folder.remove().is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
