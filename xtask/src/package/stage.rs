//! The tree of the package, as it will lie on a host.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::path;
use crate::command::Line;

const UNITS: &str = "usr/lib/systemd/system";
const DOCS: &str = "usr/share/doc/agentd";
/// From the tree of the workspace to that of the host.
const FILES: &[(&str, &str)] = &[
    ("systemd/agentd.sysusers", "usr/lib/sysusers.d/agentd.conf"),
    ("systemd/agentd.tmpfiles", "usr/lib/tmpfiles.d/agentd.conf"),
    ("packaging/agentd.toml", "etc/agentd/agentd.toml"),
    ("packaging/stack.toml.example", "usr/share/doc/agentd/stack.toml.example"),
    ("LICENSE", "usr/share/doc/agentd/copyright"),
];
/// Settings of the owner, which no upgrade overwrites.
const CONFFILES: &str = "/etc/agentd/agentd.toml\n";
const SCRIPTS: &[&str] = &["preinst", "postinst", "prerm", "postrm"];
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions/agentctl"),
    ("zsh", "usr/share/zsh/vendor-completions/_agentctl"),
    ("fish", "usr/share/fish/vendor_completions.d/agentctl.fish"),
];

pub(super) fn fill(root: &Path, binaries: &Path, staged: &Path, strip: bool) -> Result<()> {
    for program in ["agentd", "agentctl"] {
        let target = staged.join("usr/bin").join(program);
        copy(&binaries.join(program), &target, 0o755)?;
        if strip {
            Line::new("strip --strip-all").argument(path(&target)?).run(root)?;
        }
    }
    for (from, to) in FILES {
        copy(&root.join(from), &staged.join(to), 0o644)?;
    }
    with_ending(&root.join("systemd"), "service", &staged.join(UNITS))?;
    with_ending(&root.join("docs"), "md", &staged.join(DOCS))?;
    for page in ["README.md", "CHANGELOG.md"] {
        copy(&root.join(page), &staged.join(DOCS).join(page), 0o644)?;
    }
    for (shell, target) in COMPLETIONS {
        write(&staged.join(target), &completions(&staged.join("usr/bin/agentctl"), shell)?, 0o644)?;
    }
    for script in SCRIPTS {
        copy(&root.join("packaging/deb").join(script), &staged.join("DEBIAN").join(script), 0o755)?;
    }
    write(&staged.join("DEBIAN/conffiles"), CONFFILES.as_bytes(), 0o644)
}

fn with_ending(from: &Path, ending: &str, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let file = entry?.path();
        if let (Some(found), Some(name)) = (file.extension(), file.file_name())
            && found == ending
        {
            copy(&file, &to.join(name), 0o644)?;
        }
    }
    Ok(())
}

fn completions(agentctl: &Path, shell: &str) -> Result<Vec<u8>> {
    let output = Command::new(agentctl).args(["completions", shell]).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("start {}", agentctl.display()))?;
    if !output.status.success() {
        bail!("`agentctl completions {shell}` ended with {}", output.status);
    }
    Ok(output.stdout)
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    write(to, &fs::read(from).with_context(|| format!("read {}", from.display()))?, mode)
}

/// Folders 0755 whatever the umask.
pub(super) fn write(file: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let dir = file.parent().context("a file lies in a folder")?;
    let mut made: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
    made.reverse();
    for dir in made {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    }
    fs::write(file, bytes).with_context(|| format!("write {}", file.display()))?;
    fs::set_permissions(file, Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", file.display()))
}
