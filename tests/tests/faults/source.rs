//! Faults of repositories: what is not there, and what may not be in one.

use agentd_protocol::api::DeployPhase;
use agentd_tests::{Repo, web};

use super::{good, healthy, service, trouble, undisturbed};

#[test]
fn a_repository_that_appears_later_is_picked_up() {
    let mut world = healthy();
    let dir = world.dir().join("repos/later");
    world.stack(&(good(&world) + &service("bad", &format!("file://{}", dir.display()), "")));
    let problem = trouble(&world, &["not started yet", "repos/later", "does not exist"]);
    assert_eq!(problem.phase, DeployPhase::Fetch);
    assert_eq!(world.get("/bad").status, 404);
    Repo::create(&dir).commit(&[("web.py", &web("late"))]);
    world.serves("/bad", "late");
    world.applied();
    undisturbed(&world);
    world.down();
}

#[test]
fn a_repository_that_goes_away_leaves_its_service_running() {
    let mut world = healthy();
    let repo = world.web_repo("bad", "b1");
    world.stack(&(good(&world) + &service("bad", &repo.url(), "")));
    world.serves("/bad", "b1");
    world.applied();
    let away = world.dir().join("away");
    std::fs::rename(&repo.dir, &away).unwrap();
    trouble(&world, &["stays at its last commit", "does not exist"]);
    assert_eq!(world.get("/bad").status, 200);
    std::fs::rename(&away, &repo.dir).unwrap();
    world.applied();
    world.down();
}

#[test]
fn a_commit_that_does_not_exist_is_named() {
    let mut world = healthy();
    let repo = world.web_repo("bad", "b1");
    let missing = "0123456789abcdef0123456789abcdef01234567";
    world.stack(&(good(&world) + &service("bad", &repo.url(), &format!("commit = \"{missing}\""))));
    let problem = trouble(&world, &[missing, "is not in", "was it pushed"]);
    assert_eq!(problem.phase, DeployPhase::Fetch);
    assert_eq!(problem.commit.unwrap().as_str(), missing);
    let commit = repo.git(&["rev-parse", "HEAD"]).trim().to_owned();
    world.stack(&(good(&world) + &service("bad", &repo.url(), &format!("commit = \"{commit}\""))));
    world.serves("/bad", "b1");
    world.applied();
    world.down();
}

#[test]
fn a_ref_that_does_not_exist_is_named_and_followed_once_it_does() {
    let mut world = healthy();
    let repo = world.web_repo("bad", "b1");
    let entry = service("bad", &repo.url(), "").replace("\"main\"", "\"release\"");
    world.stack(&(good(&world) + &entry));
    let problem = trouble(&world, &["not started yet", "no branch or tag `release`"]);
    assert_eq!(problem.phase, DeployPhase::Fetch);
    repo.git(&["branch", "release"]);
    world.serves("/bad", "b1");
    world.applied();
    undisturbed(&world);
    world.down();
}

#[test]
fn a_folder_that_does_not_exist_at_the_commit_is_named() {
    let mut world = healthy();
    let repo = world.web_repo("bad", "b1");
    world.stack(&(good(&world) + &service("bad", &repo.url(), "dir = \"apps/api\"")));
    let problem = trouble(&world, &["dir `apps/api` does not exist"]);
    assert_eq!(problem.phase, DeployPhase::Fetch);
    repo.commit(&[("apps/api/web.py", &web("b2"))]);
    world.serves("/bad", "b2");
    world.applied();
    world.down();
}

#[test]
fn a_link_that_leaves_the_repository_is_refused() {
    let mut world = healthy();
    let repo = world.web_repo("bad", "b1");
    let link = repo.dir.join("config");
    std::os::unix::fs::symlink("../../../../etc/passwd", &link).unwrap();
    repo.commit(&[]);
    world.stack(&(good(&world) + &service("bad", &repo.url(), "")));
    let problem = trouble(&world, &["symbolic link `config`", "leaves the repository"]);
    assert_eq!(problem.phase, DeployPhase::Fetch);
    std::fs::remove_file(&link).unwrap();
    repo.commit(&[]);
    world.serves("/bad", "b1");
    world.applied();
    world.down();
}
