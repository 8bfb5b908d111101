//! The room against real git and local repositories; no network.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use agentd_protocol::ids::{Commit, ReleaseNumber, ServiceName};

use agentd_git::testing::Repository;

use super::testing::{Room, names_below};
use super::{Checkout, Error, Ids, Owner, Source};

const NOWHERE: &str = "0123456789012345678901234567890123456789";
/// Writes the verb (the first word behind the `-c` pairs) to the log, then does what git does.
const LOGGING_GIT: &str = r#"for word; do
    case "$last $word" in *" -c") ;; "-c "*) ;; *) echo "$word" >>"$LOG"; break ;; esac
    last="$word"
done
exec "$REAL" "$@""#;

fn api() -> ServiceName {
    ServiceName::new("api").unwrap()
}

async fn check_out(source: &Source, repository: &Repository, commit: &Commit) -> Result<Checkout, Error> {
    source.fetch(&repository.url(), None, None, commit).await?;
    check_out_for(source, repository, commit, Owner::Manager).await
}

async fn check_out_for(
    source: &Source,
    repository: &Repository,
    commit: &Commit,
    owner: Owner,
) -> Result<Checkout, Error> {
    source.checkout(&api(), ReleaseNumber(1), &repository.url(), commit, None, owner).await
}

#[tokio::test]
async fn a_commit_behind_the_tip_is_fetched_alone() {
    let room = Room::new();
    let repository = room.repository("origin");
    repository.write("a", "1");
    let first = repository.commit("first");
    repository.write("a", "2");
    let second = repository.commit("second");
    repository.commit("third");
    let source = room.source();
    let checkout = check_out(&source, &repository, &second).await.unwrap();
    assert_eq!(std::fs::read_to_string(checkout.root.join("a")).unwrap(), "2");
    let absent = source.tree(&repository.url(), &first, None).await;
    assert!(matches!(absent, Err(Error::CommitMissing { .. })), "{absent:?}");
}

#[tokio::test]
async fn unreachable_commits_are_fetched_too() {
    let room = Room::new();
    let repository = room.repository("origin");
    let kept = repository.commit("kept");
    let dropped = repository.commit("dropped");
    repository.git(&["reset", "--quiet", "--hard", kept.as_str()]);
    room.source().fetch(&repository.url(), None, Some("main"), &dropped).await.unwrap();
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let room = Room::new();
    let repository = room.repository("origin");
    repository.commit("first");
    let source = room.source();
    let nowhere = Commit::new(NOWHERE).unwrap();
    for reference in [None, Some("main"), Some("nope")] {
        let missing = source.fetch(&repository.url(), None, reference, &nowhere).await;
        assert!(matches!(missing, Err(Error::CommitMissing { .. })), "{missing:?}");
    }
    let no_repository = format!("file://{}", room.path("nope").display());
    let missing = source.fetch(&no_repository, None, None, &nowhere).await;
    assert!(matches!(missing, Err(Error::Git(agentd_git::Error::RepositoryMissing { .. }))), "{missing:?}");
    // Nothing listens on port 1.
    let unreachable = source.fetch("https://127.0.0.1:1/x", None, None, &nowhere).await;
    assert!(matches!(unreachable, Err(Error::Git(agentd_git::Error::Unreachable { .. }))), "{unreachable:?}");
}

/// The id of a tag object, or of a tree, is no commit, though git would take either.
#[tokio::test]
async fn ids_of_other_objects_are_no_commits() {
    let room = Room::new();
    let repository = room.repository("origin");
    repository.commit("first");
    repository.git(&["tag", "--annotate", "-m", "x", "v1"]);
    let source = room.source();
    for name in ["v1", "HEAD^{tree}"] {
        let id = Commit::new(repository.git(&["rev-parse", name])).unwrap();
        let missing = source.fetch(&repository.url(), None, None, &id).await;
        assert!(matches!(missing, Err(Error::CommitMissing { .. })), "{name}: {missing:?}");
        assert!(source.tree(&repository.url(), &id, None).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_folder_that_a_commit_leaves_alone_keeps_its_id() {
    let room = Room::new();
    let repository = room.repository("origin");
    repository.write("apps/api/x", "1");
    repository.write("apps/web/x", "1");
    let before = repository.commit("before");
    repository.write("apps/web/x", "2");
    let after = repository.commit("after");
    let source = room.source();
    for commit in [&before, &after] {
        source.fetch(&repository.url(), None, None, commit).await.unwrap();
    }
    let url = repository.url();
    let tree = |commit, dir| source.tree(&url, commit, dir);
    assert_eq!(tree(&before, Some("apps/api")).await.unwrap(), tree(&after, Some("apps/api")).await.unwrap());
    assert_ne!(tree(&before, Some("apps/web")).await.unwrap(), tree(&after, Some("apps/web")).await.unwrap());
    assert_ne!(tree(&before, None).await.unwrap(), tree(&after, None).await.unwrap());
    assert!(matches!(tree(&after, Some("apps/nope")).await, Err(Error::DirMissing { .. })));
    assert!(matches!(tree(&after, Some("apps/api/x")).await, Err(Error::DirNotFolder { .. })));
    assert!(matches!(tree(&after, Some("../x")).await, Err(Error::BadDir { .. })));
}

#[tokio::test]
async fn two_callers_share_one_fetch() {
    let room = Room::new();
    let repository = room.repository("origin");
    let commit = repository.commit("first");
    let source = room.source_with_git(LOGGING_GIT, BTreeMap::new());
    let (url, other) = (repository.url(), source.clone());
    let (one, two) = tokio::join!(source.fetch(&url, None, None, &commit), other.fetch(&url, None, None, &commit));
    one.unwrap();
    two.unwrap();
    assert_eq!(room.log().lines().filter(|verb| *verb == "fetch").count(), 1, "{}", room.log());
}

#[tokio::test]
async fn two_callers_share_one_failure() {
    let room = Room::new();
    let repository = room.repository("origin");
    repository.commit("first");
    let source = room.source_with_git(LOGGING_GIT, BTreeMap::new());
    let (url, nowhere) = (repository.url(), Commit::new(NOWHERE).unwrap());
    let (one, two) = tokio::join!(source.fetch(&url, None, None, &nowhere), source.fetch(&url, None, None, &nowhere));
    assert!(
        matches!((&one, &two), (Err(Error::CommitMissing { .. }), Err(Error::CommitMissing { .. }))),
        "{one:?} {two:?}"
    );
    assert_eq!(room.log().lines().filter(|verb| *verb == "fetch").count(), 1, "{}", room.log());
    assert!(source.fetch(&url, None, None, &nowhere).await.is_err());
    assert_eq!(room.log().lines().filter(|verb| *verb == "fetch").count(), 2, "a later caller tries again");
}

/// A server of the old protocol gives only what its refs point at: the branch's history is fetched, then everything.
#[tokio::test]
async fn servers_that_refuse_ids_are_asked_for_branches() {
    const OLD_SERVER: &str = r#"case " $* " in *" --depth=6 "*)
    echo "error: Server does not allow request for unadvertised object" >&2; exit 1 ;;
esac
for word; do case "$word" in --depth=*) echo "$word" >>"$LOG" ;; esac; done
exec "$REAL" "$@""#;
    let room = Room::new();
    let repository = room.repository("origin");
    let first = repository.commit("first");
    repository.commit("second");
    repository.git(&["checkout", "--quiet", "-b", "side"]);
    let side = repository.commit("side");
    repository.git(&["checkout", "--quiet", "main"]);
    let source = room.source_with_git(OLD_SERVER, BTreeMap::new());
    let url = repository.url();
    source.fetch(&url, None, Some("main"), &first).await.unwrap();
    assert_eq!(room.log(), "--depth=50\n");
    source.fetch(&url, None, Some("main"), &side).await.unwrap();
    assert_eq!(room.log(), "--depth=50\n--depth=50\n--depth=2147483647\n");
    source.tree(&url, &side, None).await.unwrap();
    let nowhere = Commit::new(NOWHERE).unwrap();
    let missing = source.fetch(&url, None, None, &nowhere).await;
    assert!(matches!(missing, Err(Error::CommitMissing { .. })), "{missing:?}");
}

#[tokio::test]
async fn a_checkout_is_the_tree_and_nothing_else() {
    let room = Room::new();
    let repository = room.repository("origin");
    repository.write("apps/api/run.sh", "#!/bin/sh\n");
    repository.write("shared/lib", "x");
    repository.write("left-out", "x");
    repository.write(".gitattributes", "left-out export-ignore\n");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(repository.path("apps/api/run.sh"), mode).unwrap();
    symlink("../../shared", repository.path("apps/api/shared")).unwrap();
    let commit = repository.commit("first");
    let source = room.source();
    source.fetch(&repository.url(), None, None, &commit).await.unwrap();
    let (dir, owner) = (Some("apps/api"), Owner::Manager);
    let checkout = source.checkout(&api(), ReleaseNumber(7), &repository.url(), &commit, dir, owner).await.unwrap();
    assert_eq!(checkout.dir_name, format!("7-{}", commit.short()));
    assert_eq!(checkout.root, source.release_dir(&api(), &checkout.dir_name));
    assert_eq!(checkout.work_dir, checkout.root.join("apps/api"));
    assert_eq!(
        names_below(&checkout.root),
        [
            ".gitattributes",
            "apps",
            "apps/api",
            "apps/api/run.sh",
            "apps/api/shared",
            "left-out",
            "shared",
            "shared/lib"
        ]
    );
    assert_eq!(checkout.work_dir.join("run.sh").metadata().unwrap().mode() & 0o100, 0o100);
    assert_eq!(std::fs::read_link(checkout.work_dir.join("shared")).unwrap(), Path::new("../../shared"));
    assert_eq!(names_below(checkout.root.parent().unwrap()).iter().filter(|name| name.starts_with('.')).count(), 0);
    source.seal(&api(), &checkout.dir_name, owner).await.unwrap();
    source.activate(&api(), &checkout.dir_name).await.unwrap();
    assert_eq!(source.sealed(&api()).await.unwrap(), [checkout.dir_name]);
    source.prune(&api()).await.unwrap();
    assert!(names_below(&room.path("services")).is_empty());
}

#[tokio::test]
async fn trees_that_cannot_be_whole_or_safe_are_refused() {
    let room = Room::new();
    let source = room.source();

    let escaping = room.repository("escaping");
    symlink("../../../etc/passwd", escaping.path("leak")).unwrap();
    let commit = escaping.commit("first");
    let refused = check_out(&source, &escaping, &commit).await;
    assert!(matches!(&refused, Err(Error::LinkLeavesTree { path, .. }) if path == "leak"), "{refused:?}");

    let nested = room.repository("nested");
    nested.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{NOWHERE},vendor/lib")]);
    nested.git(&["commit", "--quiet", "-m", "x"]);
    let refused = check_out(&source, &nested, &nested.head()).await;
    assert!(matches!(&refused, Err(Error::Submodule { path, .. }) if path == "vendor/lib"), "{refused:?}");

    let large = room.repository("large");
    large.write(".gitattributes", "*.bin filter=lfs\n");
    large.write("m.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
    let commit = large.commit("first");
    let refused = check_out(&source, &large, &commit).await;
    assert!(matches!(&refused, Err(Error::LargeFilePointer { path, .. }) if path == "m.bin"), "{refused:?}");

    assert!(names_below(&room.path("services/api/releases")).is_empty(), "nothing of a refused tree stays");
}

#[tokio::test]
async fn hooks_of_a_mirror_never_run() {
    let room = Room::new();
    let repository = room.repository("origin");
    repository.commit("first");
    let source = room.source();
    source.fetch(&repository.url(), None, None, &repository.head()).await.unwrap();
    let mirror_dir = std::fs::read_dir(room.path("git"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "git"))
        .unwrap();
    let trap = room.path("trap");
    std::fs::create_dir_all(mirror_dir.join("hooks")).unwrap();
    for hook in ["reference-transaction", "post-checkout", "post-index-change"] {
        let path = mirror_dir.join("hooks").join(hook);
        std::fs::write(&path, format!("#!/bin/sh\ntouch {}\n", trap.display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let second = repository.commit("second");
    check_out(&source, &repository, &second).await.unwrap();
    assert!(!trap.exists());
}

/// What a manager killed in the middle leaves: lock files, half a mirror.
#[tokio::test]
async fn a_mirror_survives_a_killed_fetch() {
    let room = Room::new();
    let repository = room.repository("origin");
    let first = repository.commit("first");
    let source = room.source();
    source.fetch(&repository.url(), None, None, &first).await.unwrap();
    let mirrors = names_below(&room.path("git"));
    let mirror = mirrors.iter().find(|name| name.ends_with(".git")).unwrap();
    std::fs::write(room.path("git").join(mirror).join("shallow.lock"), "").unwrap();
    let second = repository.commit("second");
    source.fetch(&repository.url(), None, None, &second).await.unwrap();
    std::fs::remove_file(room.path("git").join(mirror).join("HEAD")).unwrap();
    source.fetch(&repository.url(), None, None, &second).await.unwrap();
}

/// Takes the object out of the only mirror and leaves the others.
fn damage(git_dir: &Path, object: &str) {
    let names = names_below(git_dir);
    let mirror_dir = git_dir.join(names.iter().find(|name| name.ends_with(".git")).unwrap());
    // Packs are unpacked into single objects first; git does not unpack what it has, so they are moved away.
    for pack in names.iter().filter(|name| name.ends_with(".pack")) {
        let moved = git_dir.join("moved.pack");
        std::fs::rename(git_dir.join(pack), &moved).unwrap();
        std::fs::remove_file(git_dir.join(pack).with_extension("idx")).unwrap();
        let mut unpack = std::process::Command::new("git");
        unpack.args(["unpack-objects", "-q"]).env("GIT_DIR", &mirror_dir);
        assert!(unpack.stdin(std::fs::File::open(&moved).unwrap()).status().unwrap().success());
    }
    std::fs::remove_file(mirror_dir.join("objects").join(&object[..2]).join(&object[2..])).unwrap();
}

/// A disk that loses bytes costs one failed try, not a host that stays behind for ever.
#[tokio::test]
async fn a_damaged_mirror_is_made_anew() {
    let room = Room::new();
    let repository = room.repository("origin");
    repository.write("a", "1");
    let commit = repository.commit("first");
    let source = room.source();
    source.fetch(&repository.url(), None, None, &commit).await.unwrap();
    damage(&room.path("git"), &source.tree(&repository.url(), &commit, None).await.unwrap());
    let refused = check_out(&source, &repository, &commit).await;
    assert!(matches!(refused, Err(Error::MirrorDamaged { .. })), "{refused:?}");
    let checkout = check_out(&source, &repository, &commit).await.unwrap();
    assert_eq!(names_below(&checkout.root), ["a"]);
}

/// As root, releases and data belong to the user services run as; as anybody else, to ourselves.
#[tokio::test]
async fn files_belong_to_their_owner() {
    let room = Room::new();
    let repository = room.repository("origin");
    repository.write("dir/file", "1");
    symlink("dir/file", repository.path("link")).unwrap();
    let commit = repository.commit("first");
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let owner = if uid.is_root() { (65_534, 65_534) } else { (uid.as_raw(), gid.as_raw()) };
    let shared = Owner::Shared(Ids { uid: owner.0, gid: owner.1 });
    let source = room.source();
    source.fetch(&repository.url(), None, None, &commit).await.unwrap();
    let checkout = check_out_for(&source, &repository, &commit, shared).await.unwrap();
    let data_dir = source.data_dir(&api(), shared).await.unwrap();
    let below = names_below(&checkout.root).into_iter().map(|name| checkout.root.join(name));
    for path in below.chain([checkout.root.clone(), data_dir]) {
        let metadata = path.symlink_metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), owner, "{}", path.display());
    }
    let service_dir = room.path("services/api").metadata().unwrap();
    assert_eq!(service_dir.uid(), uid.as_raw(), "the owner must not be able to replace whole releases");
}
