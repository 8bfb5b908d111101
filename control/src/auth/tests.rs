//! What happens at once, in every order that matters; and what a restart leaves.

use std::net::IpAddr;
use std::path::Path;

use super::accounts::{Accounts, Entered, User, Visitor};
use super::{Error, Secret};
use crate::clock::now_unix_ms;
use crate::core::Actor;
use crate::store::Store;

const OLD: &str = "correct horse battery staple";
const NEW: &str = "another horse battery staple";

fn from(address: [u8; 4]) -> Visitor {
    Visitor { address: IpAddr::from(address), agent: "a browser".into(), replaces: None }
}

const HOME: [u8; 4] = [192, 0, 2, 1];

async fn open(dir: &Path) -> Accounts {
    Accounts::open(Store::open(dir).unwrap()).await
}

async fn link(accounts: &Accounts) -> String {
    let link = accounts.create_link(&Actor::Server).await.unwrap();
    link.path.split_once("link=").unwrap().1.to_owned()
}

async fn set_up(accounts: &Accounts) -> Entered {
    let link = link(accounts).await;
    accounts.enter_by_link(&link, "martha", OLD.into(), from(HOME)).await.unwrap()
}

async fn listed(accounts: &Accounts, user: &User) -> usize {
    accounts.sessions(user, Secret::draw().hash()).await.unwrap().len()
}

/// An act that makes the old password worthless.
#[derive(Debug, Clone, Copy)]
enum Change {
    ByOwner,
    InSession,
    ByLink,
}

async fn change(accounts: &Accounts, how: Change, entered: &Entered) {
    match how {
        Change::ByOwner => accounts.set_password(&Actor::Server, "martha", NEW.into()).await.unwrap(),
        Change::InSession => {
            accounts.change_password(&entered.user, OLD.into(), NEW.into(), entered.secret.hash()).await.unwrap();
        }
        Change::ByLink => {
            let link = link(accounts).await;
            accounts.enter_by_link(&link, "", NEW.into(), from(HOME)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_old_password_that_was_right_a_moment_ago_begins_nothing() {
    for how in [Change::ByOwner, Change::InSession, Change::ByLink] {
        let dir = tempfile::tempdir().unwrap();
        let accounts = open(dir.path()).await;
        let entered = set_up(&accounts).await;
        let proven = accounts.prove("martha", OLD.into(), HOME.into()).await.unwrap();
        change(&accounts, how, &entered).await;
        let before = listed(&accounts, &entered.user).await;
        assert!(matches!(accounts.begin(proven, from(HOME)).await, Err(Error::Wrong)), "{how:?}");
        assert_eq!(listed(&accounts, &entered.user).await, before, "{how:?}");
        assert!(accounts.login("martha", NEW.into(), from(HOME)).await.is_ok(), "{how:?}");
    }
}

#[tokio::test]
async fn nor_does_it_where_the_disk_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let accounts = Accounts::open(store.clone()).await;
    let entered = set_up(&accounts).await;
    let proven = accounts.prove("martha", OLD.into(), HOME.into()).await.unwrap();
    accounts.set_password(&Actor::Server, "martha", NEW.into()).await.unwrap();
    store.fill_disk(true).await;
    assert!(matches!(accounts.begin(proven, from(HOME)).await, Err(Error::Wrong)));
    assert_eq!(listed(&accounts, &entered.user).await, 0);
}

#[tokio::test]
async fn sessions_without_room_on_the_disk_are_seen_and_end_as_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let accounts = Accounts::open(store.clone()).await;
    let user = set_up(&accounts).await.user;
    accounts.logout_all(&Actor::Server).await.unwrap();
    store.fill_disk(true).await;
    let first = accounts.login("martha", OLD.into(), from([192, 0, 2, 7])).await.unwrap().secret.hash();
    let rows = accounts.sessions(&user, first).await.unwrap();
    assert_eq!(rows.iter().map(|row| (row.source.as_str(), row.own)).collect::<Vec<_>>(), [("192.0.2.7", true)]);
    let again = Visitor { replaces: Some(first), ..from(HOME) };
    let second = accounts.login("martha", OLD.into(), again).await.unwrap().secret.hash();
    assert_eq!(accounts.who(first, true).await.unwrap(), None, "the one it replaces");
    assert_eq!(accounts.who(second, true).await.unwrap().as_ref(), Some(&user));
    // Also where the next one can be saved.
    store.fill_disk(false).await;
    let again = Visitor { replaces: Some(second), ..from(HOME) };
    let third = accounts.login("martha", OLD.into(), again).await.unwrap().secret.hash();
    assert_eq!(accounts.who(second, true).await.unwrap(), None);
    accounts.set_password(&Actor::Server, "martha", NEW.into()).await.unwrap();
    assert_eq!((accounts.who(third, true).await.unwrap(), listed(&accounts, &user).await), (None, 0));
}

#[tokio::test]
async fn who_came_in_before_a_restart_is_not_locked_out_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let accounts = open(dir.path()).await;
    set_up(&accounts).await;
    accounts.login("martha", OLD.into(), from([192, 0, 2, 2])).await.unwrap();
    // So that it is not a session that makes the place known.
    accounts.logout_all(&Actor::Server).await.unwrap();
    drop(accounts);
    let accounts = open(dir.path()).await;
    let now = now_unix_ms();
    accounts.exhaust("martha", now);
    let stranger = accounts.login("martha", OLD.into(), from([198, 51, 100, 1])).await;
    assert!(matches!(stranger, Err(Error::Limited { .. })));
    for place in [HOME, [192, 0, 2, 2]] {
        assert!(accounts.login("martha", OLD.into(), from(place)).await.is_ok(), "{place:?}");
    }
}
