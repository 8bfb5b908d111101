//! The tree of the package, as it will lie on a host.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::path;
use super::product::Product;
use crate::command::Line;

const UNITS: &str = "usr/lib/systemd/system";
const DOCS: &str = "usr/share/doc";

pub(super) fn fill(product: &Product, root: &Path, binaries: &Path, staged: &Path, strip: bool) -> Result<()> {
    for program in product.programs {
        let target = staged.join("usr/bin").join(program);
        copy(&binaries.join(program), &target, 0o755)?;
        if strip {
            Line::new("strip --strip-all").argument(path(&target)?).run(root)?;
        }
    }
    for (from, to) in product.files {
        copy(&root.join(from), &staged.join(to), 0o644)?;
    }
    let docs = staged.join(DOCS).join(product.name);
    copy_all(&root.join("systemd"), product.units, "service", &staged.join(UNITS))?;
    copy_all(&root.join("docs"), "", "md", &docs)?;
    for page in ["README.md", "CHANGELOG.md"] {
        copy(&root.join(page), &docs.join(page), 0o644)?;
    }
    copy(&root.join("LICENSE"), &docs.join("copyright"), 0o644)?;
    if let Some((program, shells)) = product.completions {
        for (shell, target) in shells {
            write(&staged.join(target), &completions(&staged.join("usr/bin").join(program), shell)?, 0o644)?;
        }
    }
    let (dir, scripts) = product.scripts;
    for script in scripts {
        copy(&root.join(dir).join(script), &staged.join("DEBIAN").join(script), 0o755)?;
    }
    if product.conffiles.is_empty() {
        return Ok(());
    }
    write(&staged.join("DEBIAN/conffiles"), product.conffiles.as_bytes(), 0o644)
}

fn copy_all(from: &Path, beginning: &str, ending: &str, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let file = entry?.path();
        if let (Some(found), Some(name)) = (file.extension(), file.file_name())
            && found == ending
            && name.to_string_lossy().starts_with(beginning)
        {
            copy(&file, &to.join(name), 0o644)?;
        }
    }
    Ok(())
}

fn completions(program: &Path, shell: &str) -> Result<Vec<u8>> {
    let output = Command::new(program).args(["completions", shell]).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("start {}", program.display()))?;
    if !output.status.success() {
        bail!("`{} completions {shell}` ended with {}", program.display(), output.status);
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
