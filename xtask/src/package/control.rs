//! What dpkg is told of the package.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::product::Product;

/// The control file of the staged tree.
pub(super) fn text(product: &Product, version: &str, architecture: &str, staged: &Path) -> Result<String> {
    let mut glibc = (2, 0);
    for program in product.programs {
        let path = staged.join("usr/bin").join(program);
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        glibc = glibc.max(glibc_of(&bytes));
    }
    let (major, minor) = glibc;
    let Product { name, needs, description, .. } = product;
    let size_kib = bytes_below(staged)? / 1024;
    Ok(format!(
        "Package: {name}\n\
         Version: {version}\n\
         Architecture: {architecture}\n\
         Maintainer: agentd maintainers <maintainers@agentd.invalid>\n\
         Installed-Size: {size_kib}\n\
         Depends: libc6 (>= {major}.{minor}), libgcc-s1, {needs}\n\
         Section: admin\n\
         Priority: optional\n\
         Description: {description}"
    ))
}

/// The newest symbol version of glibc that a program names: it does not start with an older one.
fn glibc_of(program: &[u8]) -> (u32, u32) {
    const MARK: &[u8] = b"GLIBC_2.";
    let minor_at = |at: usize| {
        let digits = program[at + MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(0_u32, |number, digit| number.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
    };
    let marks = program.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let minors = marks.map(|(at, _)| minor_at(at)).filter(|minor| *minor < 1_000);
    (2, minors.max().unwrap_or_default())
}

fn bytes_below(dir: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        let facts = entry.metadata()?;
        total += if facts.is_dir() { bytes_below(&entry.path())? } else { facts.size() };
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_counts() {
        assert_eq!(glibc_of(b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0"), (2, 34));
        assert_eq!(glibc_of(b"static"), (2, 0));
    }
}
