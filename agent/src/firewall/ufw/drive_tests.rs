//! Against `fake`; tests/tests/root_ufw.rs has the real one.

use super::super::fake::{World, world};
use super::super::journal::Restored;
use super::super::plan::Purpose;
use super::*;

impl World {
    fn ensure(&self, wanted: &Wanted) -> Result<Ensured, Error> {
        self.ufw.ensure(wanted, &self.journal_path)
    }

    fn undo(&self) -> Undone {
        self.ufw.undo(&self.journal_path).unwrap().expect("there is a journal")
    }

    fn orders(&self) -> usize {
        let orders = std::fs::read_to_string(self.dir.path().join("orders")).unwrap();
        orders.lines().filter(|order| *order != "status").count()
    }
}

fn wanted(proxy: u16) -> Wanted {
    Wanted { proxy: [proxy].into(), ssh_ports: [22].into(), ssh: ["203.0.113.0/24".parse().unwrap()].into() }
}

const OWNERS: &str = "### tuple ### allow tcp 80 0.0.0.0/0 any 0.0.0.0/0 in comment=6d\n";

#[test]
fn what_was_added_is_taken_back_to_the_byte() {
    let world = world(OWNERS);
    let Ensured::Allowed { added, pre_existing } = world.ensure(&wanted(8443)).unwrap() else { panic!("it is active") };
    assert_eq!((added.len(), pre_existing.len()), (3, 0), "proxy in two families, SSH in one");
    assert_eq!(world.rules().lines().count(), 4);
    assert_eq!(world.ensure(&wanted(8443)).unwrap(), Ensured::Allowed { added: vec![], pre_existing: vec![] });
    assert_eq!(world.orders(), 3, "the second time nothing was to be done");
    let undone = world.undo();
    assert_eq!((undone.removed.len(), undone.left.len()), (3, 0));
    assert!(undone.files.iter().all(|file| file.restored == Restored::Exactly), "{undone:?}");
    assert_eq!(world.rules(), OWNERS);
    assert_eq!(world.ufw.undo(&world.journal_path).unwrap(), None, "once is enough");
}

#[test]
fn what_is_no_longer_wanted_goes_and_the_rest_stays() {
    let world = world("");
    world.ensure(&wanted(8443)).unwrap();
    world.ensure(&wanted(9443)).unwrap();
    assert!(!world.rules().contains(" 8443 ") && world.rules().contains(" 9443 "), "{}", world.rules());
    world.undo();
    assert_eq!(world.rules(), "");
}

#[test]
fn an_owners_allow_is_neither_commented_nor_deleted() {
    let owners = "### tuple ### allow tcp 8443 0.0.0.0/0 any 0.0.0.0/0 in comment=6d\n";
    let world = world(owners);
    let Ensured::Allowed { pre_existing, .. } = world.ensure(&wanted(8443)).unwrap() else { panic!("it is active") };
    let theirs = Allow { purpose: Purpose::Proxy, from: "0.0.0.0/0".parse().unwrap(), port: 8443 };
    assert_eq!(pre_existing, [theirs]);
    assert!(world.rules().starts_with(owners));
    world.undo();
    assert_eq!(world.rules(), owners);
}

#[test]
fn an_owners_deny_stops_us_before_anything_is_changed() {
    let owners = "### tuple ### deny tcp 8443 0.0.0.0/0 any 0.0.0.0/0 in\n";
    let world = world(owners);
    let refused = world.ensure(&wanted(8443)).unwrap_err();
    assert!(matches!(refused, Error::Conflict { action: super::super::Action::Deny, .. }), "{refused}");
    assert_eq!((world.rules().as_str(), world.orders()), (owners, 0));
    assert!(!world.journal_path.exists());
}

#[test]
fn an_exit_code_of_zero_is_not_believed() {
    let world = world(OWNERS);
    std::fs::write(world.dir.path().join("deaf"), "").unwrap();
    let error = world.ensure(&wanted(8443)).unwrap_err();
    assert!(matches!(error, Error::NotTaken { .. }), "{error}");
    let undone = world.undo();
    assert_eq!((undone.removed, world.rules().as_str()), (vec![], OWNERS), "what never happened is not undone");
}

#[test]
fn rules_the_owner_changed_since_are_kept_and_named() {
    let world = world(OWNERS);
    world.ensure(&wanted(8443)).unwrap();
    let theirs = world.rules().replace("6167656e74643a737368", "6d696e65");
    std::fs::write(
        &world.ufw.rules[0],
        theirs
            .lines()
            .filter(|line| !line.contains("::"))
            .fold("### tuple ### deny udp 5 0.0.0.0/0 any 0.0.0.0/0 in\n".to_owned(), |text, line| text + line + "\n"),
    )
    .unwrap();
    let undone = world.undo();
    assert_eq!(undone.left.len(), 1, "the rule for SSH got another comment: {undone:?}");
    let Restored::Differs { added, missing } = &undone.files[0].restored else { panic!("{undone:?}") };
    assert_eq!((added.len(), missing.len()), (2, 0), "{undone:?}");
    assert_eq!(undone.files[1].restored, Restored::Exactly);
}

#[test]
fn a_crash_between_journal_and_effect_or_behind_it_is_undone_the_same() {
    for done in [false, true] {
        let world = world(OWNERS);
        world.ensure(&wanted(8443)).unwrap();
        // As if the manager had died before it could write what the last order came to.
        let mut journal = Journal::read(&world.journal_path).unwrap().unwrap();
        let last = journal.entries.last_mut().unwrap();
        last.after = None;
        if !done {
            command::run(&world.ufw.program, &last.inverse.clone(), LIMITS).unwrap();
        }
        journal.write(&world.journal_path).unwrap();
        world.undo();
        assert_eq!(world.rules(), OWNERS, "{done}");
    }
}

#[test]
fn an_inactive_ufw_is_left_alone_and_one_without_ipv6_gets_one_family() {
    let world = world(OWNERS);
    std::fs::write(world.dir.path().join("status"), "Status: inactive\n").unwrap();
    assert_eq!(world.ensure(&wanted(8443)).unwrap(), Ensured::NotActive);
    assert!(!world.journal_path.exists());
    std::fs::write(world.dir.path().join("status"), "ERROR: You need to be root to run this script\n").unwrap();
    assert!(matches!(world.ensure(&wanted(8443)), Err(Error::Status { .. })));
    std::fs::write(world.dir.path().join("status"), "Status: active\n").unwrap();
    std::fs::write(&world.ufw.defaults, "IPV6=yes\nIPV6=\"no\"\n").unwrap();
    let Ensured::Allowed { added, .. } = world.ensure(&wanted(8443)).unwrap() else { panic!("it is active") };
    assert_eq!(added.len(), 2);
}
