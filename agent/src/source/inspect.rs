//! A look at a fresh checkout before anything of it may run: links stay inside, nothing is a stand-in for other content.
//! Also the owner's mark on every file. Blocking; nobody else can write into the tree yet.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Component, Path, PathBuf};

use super::ownership::Ids;

/// First line of a Git LFS pointer, which is smaller than 1 KiB (git-lfs specification).
const POINTER_START: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";
const POINTER_BYTES_MAX: u64 = 1024;
/// Bytes of a `.gitattributes` that are looked through: git itself reads no more (attr.h).
const ATTRIBUTES_BYTES_MAX: u64 = 100 * 1024 * 1024;
/// Links on the way to one target, as the kernel counts (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// What is wrong with a tree; paths are relative to its root.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    LinkLeavesTree { path: PathBuf, target: PathBuf },
    LargeFilePointer { path: PathBuf },
}

/// The first finding in path order, if any.
pub(super) fn inspect(root: &Path) -> io::Result<Option<Finding>> {
    let mut pointer = None;
    let mut uses_large_files = false;
    for path in walk(root)? {
        let relative = path.strip_prefix(root).expect("walk stays below its root").to_owned();
        let metadata = path.symlink_metadata()?;
        if metadata.is_symlink() {
            let target = std::fs::read_link(&path)?;
            if leaves(root, &relative)? {
                return Ok(Some(Finding::LinkLeavesTree { path: relative, target }));
            }
        } else if metadata.is_file() {
            let is_attributes = relative.file_name().is_some_and(|name| name == ".gitattributes");
            if is_attributes && metadata.size() <= ATTRIBUTES_BYTES_MAX {
                uses_large_files |= contains(&std::fs::read(&path)?, b"filter=lfs");
            }
            if pointer.is_none()
                && metadata.size() < POINTER_BYTES_MAX
                && std::fs::read(&path)?.starts_with(POINTER_START)
            {
                pointer = Some(relative);
            }
        }
    }
    // A pointer without the attribute is a file that happens to look like one.
    Ok(pointer.filter(|_| uses_large_files).map(|path| Finding::LargeFilePointer { path }))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Follows the link at `relative` as the kernel would with `root` as the limit. What does not exist ends nowhere bad, as
/// long as the way there stays inside.
fn leaves(root: &Path, relative: &Path) -> io::Result<bool> {
    let mut at = PathBuf::new();
    let mut todo: Vec<PathBuf> = vec![relative.to_owned()];
    let mut links = 0;
    while let Some(part) = todo.pop() {
        let mut components = part.components();
        let Some(component) = components.next() else { continue };
        let rest = components.as_path().to_owned();
        todo.push(rest);
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                if !at.pop() {
                    return Ok(true);
                }
            }
            Component::Normal(name) => {
                at.push(name);
                let whole = root.join(&at);
                if whole.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
                    links += 1;
                    if links > LINKS_MAX {
                        return Ok(false);
                    }
                    at.pop();
                    todo.push(std::fs::read_link(&whole)?);
                }
            }
            Component::RootDir | Component::Prefix(_) => return Ok(true),
        }
    }
    Ok(false)
}

/// Everything below `root`, folders before what they hold, in name order. Links are not followed.
fn walk(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        let mut entries = std::fs::read_dir(&dir)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Gives the tree to its owner, the root last: until then the owner cannot get in and swap a file for a link.
pub(super) fn give_to(root: &Path, Ids { uid, gid }: Ids) -> io::Result<()> {
    for path in walk(root)? {
        lchown(&path, Some(uid), Some(gid))?;
    }
    lchown(root, Some(uid), Some(gid))
}

/// Removes a tree, also where folders are read-only (module caches are) and we are not root. Gone already is fine.
pub(super) fn remove_tree(root: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(root) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(root)?;
            std::fs::remove_dir_all(root)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn make_writable(root: &Path) -> io::Result<()> {
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))?;
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree(links: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/file"), "x").unwrap();
        for (path, target) in links {
            symlink(target, dir.path().join(path)).unwrap();
        }
        dir
    }

    #[test]
    fn links_inside_are_fine() {
        let dir =
            tree(&[("l", "a/file"), ("a/b/up", "../../l"), ("dangling", "a/none/x"), ("loop", "loop"), ("self", ".")]);
        assert_eq!(inspect(dir.path()).unwrap(), None);
    }

    #[test]
    fn links_that_leave_are_found() {
        for (path, target) in [
            ("l", "/etc/passwd"),
            ("l", ".."),
            ("a/l", "../../x"),
            ("a/b/l", "../../../etc/passwd"),
            ("l", "none/../../x"),
        ] {
            let dir = tree(&[(path, target)]);
            let expected = Finding::LinkLeavesTree { path: path.into(), target: target.into() };
            assert_eq!(inspect(dir.path()).unwrap(), Some(expected), "{path} -> {target}");
        }
    }

    /// Each text looks harmless: `deep/..` is `a`, so `deep/../..` is the root and one more `..` is outside.
    #[test]
    fn links_through_links_are_followed() {
        let dir = tree(&[("x", "a/b"), ("y", "x/../../..")]);
        assert!(
            matches!(inspect(dir.path()).unwrap(), Some(Finding::LinkLeavesTree { path, .. }) if path == Path::new("y"))
        );
        let dir = tree(&[("x", "a/b"), ("y", "x/../..")]);
        assert_eq!(inspect(dir.path()).unwrap(), None);
    }

    #[test]
    fn pointers_count_only_where_large_files_are_used() {
        let dir = tree(&[]);
        let pointer = [POINTER_START, b"oid sha256:00\nsize 1\n"].concat();
        std::fs::write(dir.path().join("a/model.bin"), pointer).unwrap();
        assert_eq!(inspect(dir.path()).unwrap(), None);
        std::fs::write(dir.path().join(".gitattributes"), "*.bin filter=lfs diff=lfs\n").unwrap();
        let expected = Finding::LargeFilePointer { path: "a/model.bin".into() };
        assert_eq!(inspect(dir.path()).unwrap(), Some(expected));
    }

    #[test]
    fn read_only_folders_can_be_removed() {
        let dir = tree(&[("l", "/etc")]);
        let root = dir.path().join("a");
        for path in [root.join("b"), root.clone()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o555)).unwrap();
        }
        remove_tree(&root).unwrap();
        assert!(!root.exists());
        remove_tree(&root).unwrap();
    }
}
