//! The accounts: what is asked of them, and done to them. Each act is audited in the transaction that does it.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use agentd_protocol::digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use super::Error;
use super::hashing::Hashing;
use super::limits::{KNOWN_MAX, KNOWN_MS, Tries};
use super::password::{self, PASSWORD_BYTES_MAX};
use super::secret::Secret;
use super::session::{self, Times, Verdict};
use super::unsaved::{Begun, Unsaved};
use crate::clock::now_unix_ms;
use crate::core::Actor;
use crate::limit::{Source, Wait};
use crate::store::{self, Entry, Store};

/// An entry link, from its making on. Long enough to walk to another machine's screen, short enough to be forgotten.
const LINK_MS: u64 = 24 * 3_600 * 1_000;
const DAY_MS: u64 = 86_400_000;
const API_TOKEN_DAYS_MAX: u64 = 366;
const NAME_CHARS_MAX: usize = 63;
/// Of what a browser says it is, characters: enough to be known again.
const AGENT_CHARS_MAX: usize = 200;

#[derive(Debug, Clone)]
pub struct Accounts {
    store: Store,
    hashing: Hashing,
    tries: Arc<Mutex<Tries>>,
    unsaved: Unsaved,
    /// Counts up whenever a session or a token may have ended by somebody's act.
    ended: watch::Sender<u64>,
}

/// Who is in, by a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: String,
    pub name: String,
}

/// Somebody came in: the session's secret goes into the cookie.
#[expect(missing_debug_implementations, reason = "it holds the session's secret")]
pub struct Entered {
    pub user: User,
    pub(crate) secret: Secret,
}

/// Where somebody comes from.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(crate) address: IpAddr,
    pub(crate) agent: String,
    /// The session the browser still had.
    pub(crate) replaces: Option<Digest>,
}

/// Printed once. No `Debug`: it opens the server.
#[derive(Clone, Serialize, Deserialize)]
#[expect(missing_debug_implementations, reason = "it holds the link's secret")]
pub struct EntryLink {
    /// To be put behind the server's URL.
    pub path: String,
    /// The whole, where the URL is known.
    #[serde(default)]
    pub url: String,
    pub expires_unix_ms: u64,
}

#[derive(Debug, Clone)]
pub struct SessionRow {
    pub source: String,
    pub agent: String,
    pub created_ms: u64,
    pub seen_ms: u64,
    pub own: bool,
}

/// Who has just given the right password. No `Debug`: it holds its hash.
pub(super) struct Proven {
    pub(super) user: User,
    /// As it was when it was looked at.
    hash: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    Read,
    Write,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApiTokenRow {
    pub id: String,
    pub name: String,
    pub scope: Scope,
    pub created_unix_ms: u64,
    pub expires_unix_ms: u64,
    pub seen_unix_ms: Option<u64>,
    pub revoked_unix_ms: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewApiToken {
    pub name: String,
    pub scope: Scope,
    pub days: u64,
}

/// Shown once. No `Debug`: it opens the server.
#[derive(Clone, Serialize, Deserialize)]
#[expect(missing_debug_implementations, reason = "it holds the token")]
pub struct ApiTokenMade {
    pub row: ApiTokenRow,
    /// `agp_…`
    pub token: String,
}

impl Scope {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "read and write",
        }
    }
}

impl ApiTokenRow {
    /// Why it opens nothing any more.
    pub(crate) fn over(&self, now_ms: u64) -> Option<&'static str> {
        match self.revoked_unix_ms {
            Some(_) => Some("revoked"),
            None => (self.expires_unix_ms <= now_ms).then_some("expired"),
        }
    }
}

impl Accounts {
    /// Reads from where people came in of late.
    pub async fn open(store: Store) -> Self {
        let (now, keep) = (now_unix_ms(), u32::try_from(KNOWN_MAX).unwrap_or(u32::MAX));
        let mut tries = Tries::new();
        match store.entered_from(now.saturating_sub(KNOWN_MS), keep).await {
            Ok(places) => {
                for (name, source, at) in places {
                    if let Ok(address) = source.parse() {
                        tries.remember(account_of(&name), Source::of(address), at);
                    }
                }
            }
            // Not a reason to let nobody in: who comes from there is a stranger until he is in.
            failed => noted(failed.map(|_| ())),
        }
        Self {
            store,
            hashing: Hashing::new(),
            tries: Arc::new(Mutex::new(tries)),
            unsaved: Unsaved::default(),
            ended: watch::Sender::new(0),
        }
    }

    /// Nobody has an account: the first run.
    pub async fn is_new(&self) -> Result<bool, Error> {
        Ok(self.store.users().await?.is_empty())
    }

    /// A link that makes the owner or, where there is one, sets another password. Earlier ones lead nowhere from then on.
    pub async fn create_link(&self, actor: &Actor) -> Result<EntryLink, Error> {
        let (secret, now) = (Secret::draw(), now_unix_ms());
        let expires_unix_ms = now.saturating_add(LINK_MS);
        let entry = entry(now, actor, "user.link", "owner", json!({ "expires_unix_ms": expires_unix_ms }));
        self.store.put_entry_link(secret.hash(), now, expires_unix_ms, entry).await?;
        Ok(EntryLink { path: format!("/setup?link={}", secret.text()), url: String::new(), expires_unix_ms })
    }

    /// What the page of a link that holds is to show: the name of the account there is, if there is one.
    pub(crate) async fn look_at_link(&self, link: &str, from: &Visitor) -> Result<Option<String>, Error> {
        self.spend_source(from.address)?;
        let secret = Secret::read(link).ok_or(Error::Link)?;
        if !self.store.entry_link_holds(secret.hash(), now_unix_ms()).await? {
            return Err(Error::Link);
        }
        Ok(self.store.users().await?.into_iter().next().map(|user| user.name))
    }

    pub(crate) async fn enter_by_link(
        &self,
        link: &str,
        name: &str,
        password: String,
        from: Visitor,
    ) -> Result<Entered, Error> {
        let known = self.look_at_link(link, &from).await?;
        let name = known.unwrap_or_else(|| name.trim().to_owned());
        check_name(&name)?;
        check_password(&password, &name)?;
        let hash = Secret::read(link).ok_or(Error::Link)?.hash();
        let (password, now) = (self.hashing.hash(password).await?, now_unix_ms());
        let id = Secret::draw().hash().to_string()[..16].to_owned();
        let new =
            store::StoredUser { id, name: name.clone(), password: password.clone(), created_at: now, password_at: now };
        let entry = user_entry(now, &name, "user.enter-by-link", json!({ "from": from.address.to_string() }));
        let user = self.store.enter_by_link(hash, new, entry).await?.ok_or(Error::Link)?;
        self.unsaved.end_all();
        self.tell_ended();
        let proven = Proven { user: User { id: user.id, name: user.name }, hash: password };
        self.begin(proven, from).await
    }

    /// Takes as long for a name that is not there as for a wrong password.
    pub(crate) async fn login(&self, name: &str, password: String, from: Visitor) -> Result<Entered, Error> {
        let proven = self.prove(name, password, from.address).await?;
        self.begin(proven, from).await
    }

    pub(super) async fn prove(&self, name: &str, password: String, address: IpAddr) -> Result<Proven, Error> {
        let name = name.trim().to_owned();
        if name.chars().count() > NAME_CHARS_MAX || password.len() > PASSWORD_BYTES_MAX {
            return Err(Error::Wrong);
        }
        // All of it also for names that are not there, or trying would say which are.
        let (account, source) = (account_of(&name), Source::of(address));
        let user = self.store.user_named(&name).await?;
        let has_session = self.has_session(user.as_ref().map_or("", |user| &user.id), source).await?;
        self.tries().login(account, source, has_session, now_unix_ms()).map_err(limited)?;
        let stored = user.as_ref().map(|user| user.password.clone());
        let is_right = self.hashing.verify(stored, password).await?;
        let Some(user) = user.filter(|_| is_right) else {
            let detail = json!({ "from": address.to_string() });
            let row = entry(now_unix_ms(), &Actor::Server, "user.login-refused", "owner", detail);
            noted(self.store.append_counted(row, &address.to_string()).await);
            return Err(Error::Wrong);
        };
        self.tries().was_right(account, source, has_session, now_unix_ms());
        Ok(Proven { user: User { id: user.id, name: user.name }, hash: user.password })
    }

    /// Whether somebody who is in came from there.
    async fn has_session(&self, user: &str, source: Source) -> Result<bool, Error> {
        let now = now_unix_ms();
        let is_from_there = |row: &store::StoredSession| {
            let times = Times { created_ms: row.created_at, seen_ms: row.seen_at };
            let is_live = session::judge(times, now) != Verdict::Over;
            is_live && row.source.parse().is_ok_and(|address| Source::of(address) == source)
        };
        Ok(self.store.sessions(user).await?.iter().any(is_from_there))
    }

    /// Always a new secret: whoever knew the one from before knows nothing. The password may have become another one since
    /// it was looked at, and all sessions ended: then this one does not begin.
    pub(super) async fn begin(&self, proven: Proven, from: Visitor) -> Result<Entered, Error> {
        let (secret, now, Proven { user, hash }) = (Secret::draw(), now_unix_ms(), proven);
        let new = store::NewSession {
            hash: secret.hash(),
            user: user.id.clone(),
            now,
            source: from.address.to_canonical().to_string(),
            agent: from.agent.chars().filter(|char| !char.is_control()).take(AGENT_CHARS_MAX).collect(),
            replaces: from.replaces,
            keep: session::SESSIONS_MAX,
        };
        let begun = Begun { user: user.clone(), source: new.source.clone(), agent: new.agent.clone() };
        let entry = user_entry(now, &user.name, "user.login", json!({ "from": new.source }));
        let holds = match self.store.begin_session(new, hash.clone(), entry).await {
            Err(error @ store::Error::Sqlite(agentd_sqlite::Error::DiskFull { .. })) => {
                noted(Err(error));
                self.begin_unsaved(secret.hash(), begun, hash, now).await?
            }
            done => done?,
        };
        if !holds {
            return Err(Error::Wrong);
        }
        if let Some(old) = from.replaces {
            self.unsaved.end(old);
        }
        // The one it replaces, and the oldest of too many.
        self.tell_ended();
        Ok(Entered { user, secret })
    }

    /// Who sets a password ends the unsaved sessions once it is set: so this one begins before it is looked whether the
    /// password holds, and either he or this takes it out.
    async fn begin_unsaved(&self, session: Digest, begun: Begun, proven: String, now: u64) -> Result<bool, Error> {
        let user = begun.user.id.clone();
        self.unsaved.begin(session, begun, now);
        let holds = self.store.password_holds(&user, proven).await;
        if !matches!(holds, Ok(true)) {
            self.unsaved.end(session);
        }
        Ok(holds?)
    }

    /// `touch`: this request is a person's doing, not a page's that looks again by itself.
    pub(crate) async fn who(&self, hash: Digest, touch: bool) -> Result<Option<User>, Error> {
        let now = now_unix_ms();
        let Some(stored) = self.store.session(hash).await? else { return Ok(self.unsaved.who(hash, now, touch)) };
        match session::judge(Times { created_ms: stored.created_at, seen_ms: stored.seen_at }, now) {
            Verdict::Over => return Ok(None),
            Verdict::Touch if touch => noted(self.store.touch_session(hash, now).await),
            Verdict::Touch | Verdict::Live => {}
        }
        Ok(Some(User { id: stored.user, name: stored.user_name }))
    }

    pub(crate) async fn logout(&self, user: &User, hash: Digest) -> Result<(), Error> {
        let now = now_unix_ms();
        let entry = user_entry(now, &user.name, "user.logout", json!({}));
        self.unsaved.end(hash);
        self.store.end_session(hash, now.saturating_sub(session::IDLE_MS), entry).await?;
        self.tell_ended();
        Ok(())
    }

    /// Everybody, everywhere.
    pub async fn logout_all(&self, actor: &Actor) -> Result<u64, Error> {
        let entry = entry(now_unix_ms(), actor, "user.logout-all", "owner", json!({}));
        // Before, so that they end on a full disk too; and those that began meanwhile.
        let unsaved = self.unsaved.end_all();
        let ended = self.store.end_sessions(None, entry).await?;
        let unsaved = unsaved + self.unsaved.end_all();
        self.tell_ended();
        Ok(ended + unsaved)
    }

    /// Ends every session but the one it was asked in.
    pub(crate) async fn change_password(
        &self,
        user: &User,
        old: String,
        new: String,
        own: Digest,
    ) -> Result<(), Error> {
        self.tries().old_password(own, now_unix_ms()).map_err(limited)?;
        let stored = self.store.user_named(&user.name).await?.map(|user| user.password);
        if old.len() > PASSWORD_BYTES_MAX || !self.hashing.verify(stored.clone(), old).await? {
            return Err(Error::Wrong);
        }
        let proven = stored.ok_or(Error::Wrong)?;
        check_password(&new, &user.name)?;
        let (password, now) = (self.hashing.hash(new).await?, now_unix_ms());
        let entry = user_entry(now, &user.name, "user.password", json!({}));
        if !self.store.set_password(&user.id, password, Some((own, proven)), now, entry).await? {
            return Err(Error::Wrong);
        }
        self.unsaved.end_all_but(own);
        self.tell_ended();
        Ok(())
    }

    /// By whoever owns the machine; every session ends.
    pub async fn set_password(&self, actor: &Actor, name: &str, new: String) -> Result<(), Error> {
        let user = self.store.user_named(name).await?.ok_or(Error::Missing { what: "user" })?;
        check_password(&new, name)?;
        let (password, now) = (self.hashing.hash(new).await?, now_unix_ms());
        let entry = entry(now, actor, "user.password", name, json!({}));
        self.store.set_password(&user.id, password, None, now, entry).await?;
        self.unsaved.end_all();
        self.tell_ended();
        Ok(())
    }

    pub async fn users(&self) -> Result<Vec<User>, Error> {
        let users = self.store.users().await?;
        Ok(users.into_iter().map(|user| User { id: user.id, name: user.name }).collect())
    }

    pub(crate) async fn sessions(&self, user: &User, own: Digest) -> Result<Vec<SessionRow>, Error> {
        let now = now_unix_ms();
        let stored = self.store.sessions(&user.id).await?;
        let is_live = |row: &store::StoredSession| {
            session::judge(Times { created_ms: row.created_at, seen_ms: row.seen_at }, now) != Verdict::Over
        };
        let row = |row: store::StoredSession| SessionRow {
            own: row.hash == own,
            source: row.source,
            agent: row.agent,
            created_ms: row.created_at,
            seen_ms: row.seen_at,
        };
        let mut all: Vec<SessionRow> = stored.into_iter().filter(is_live).map(row).collect();
        all.extend(self.unsaved.rows(user, own, now));
        all.sort_by_key(|row| std::cmp::Reverse(row.seen_ms));
        Ok(all)
    }

    pub async fn create_api_token(&self, actor: &Actor, new: NewApiToken) -> Result<ApiTokenMade, Error> {
        check_name(new.name.trim())?;
        if !(1..=API_TOKEN_DAYS_MAX).contains(&new.days) {
            return Err(Error::Lifetime { days_max: API_TOKEN_DAYS_MAX });
        }
        let (secret, now) = (Secret::draw(), now_unix_ms());
        let row = ApiTokenRow {
            id: format!("apt_{}", &Secret::draw().hash().to_string()[..12]),
            name: new.name.trim().to_owned(),
            scope: new.scope,
            created_unix_ms: now,
            expires_unix_ms: now.saturating_add(new.days * DAY_MS),
            seen_unix_ms: None,
            revoked_unix_ms: None,
        };
        let stored = store::NewApiToken {
            id: row.id.clone(),
            hash: secret.hash(),
            name: row.name.clone(),
            can_write: row.scope == Scope::Write,
            actor: actor.to_string(),
            created_at: now,
            expires_at: row.expires_unix_ms,
        };
        let detail = json!({ "name": row.name, "scope": row.scope.word(), "days": new.days });
        self.store.put_api_token(stored, entry(now, actor, "api-token.create", &row.id, detail)).await?;
        Ok(ApiTokenMade { row, token: secret.api_token_text() })
    }

    pub async fn api_tokens(&self) -> Result<Vec<ApiTokenRow>, Error> {
        Ok(self.store.api_tokens().await?.into_iter().map(api_token_row).collect())
    }

    pub async fn revoke_api_token(&self, actor: &Actor, id: &str) -> Result<(), Error> {
        let now = now_unix_ms();
        match self.store.revoke_api_token(id, now, entry(now, actor, "api-token.revoke", id, json!({}))).await {
            Err(store::Error::Sqlite(agentd_sqlite::Error::Missing { .. })) => {
                return Err(Error::Missing { what: "API token" });
            }
            other => other?,
        }
        self.tell_ended();
        Ok(())
    }

    /// `None`: it opens nothing, whether it never did or no longer does.
    pub(crate) async fn api_token(&self, token: &str) -> Result<Option<ApiTokenRow>, Error> {
        let Some(secret) = Secret::read_api_token(token) else { return Ok(None) };
        let now = now_unix_ms();
        let row = self.store.api_token(secret.hash()).await?.map(api_token_row);
        let Some(row) = row.filter(|row| row.over(now).is_none()) else { return Ok(None) };
        if row.seen_unix_ms.is_none_or(|seen| now.saturating_sub(seen) >= session::TOUCH_MS) {
            noted(self.store.touch_api_token(&row.id, now).await);
        }
        Ok(Some(row))
    }

    /// Whether the token of that hash opens anything still.
    pub(super) async fn api_token_holds(&self, hash: Digest) -> Result<bool, Error> {
        let row = self.store.api_token(hash).await?.map(api_token_row);
        Ok(row.is_some_and(|row| row.over(now_unix_ms()).is_none()))
    }

    /// Changes when somebody's session or token may have ended.
    pub(super) fn ended(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    fn tell_ended(&self) {
        self.ended.send_modify(|count| *count += 1);
    }

    /// A credential that opens nothing was sent.
    pub(crate) fn spend_bad_credential(&self, address: IpAddr) -> Result<(), Error> {
        self.tries().bad_credential(Source::of(address), now_unix_ms()).map_err(limited)
    }

    fn spend_source(&self, address: IpAddr) -> Result<(), Error> {
        self.tries().source(Source::of(address), now_unix_ms()).map_err(limited)
    }

    /// As a net of many machines does.
    #[cfg(test)]
    pub(super) fn exhaust(&self, name: &str, now_ms: u64) {
        for number in 0..500_u16 {
            let [high, low] = number.to_be_bytes();
            // Refused once the account's strangers have used up what they have together.
            let _ = self.tries().login(account_of(name), Source::of([203, 0, high, low].into()), false, now_ms);
        }
    }

    fn tries(&self) -> std::sync::MutexGuard<'_, Tries> {
        self.tries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn account_of(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn limited(wait: Wait) -> Error {
    Error::Limited { retry_s: wait.secs() }
}

fn check_name(name: &str) -> Result<(), Error> {
    let is_plain = |char: char| char.is_alphanumeric() || "._-@ ".contains(char);
    let fits = (1..=NAME_CHARS_MAX).contains(&name.chars().count()) && name.chars().all(is_plain);
    if fits { Ok(()) } else { Err(Error::Name) }
}

fn check_password(password: &str, name: &str) -> Result<(), Error> {
    let faults: Vec<String> = password::weaknesses(password, name).into_iter().map(password::Weakness::text).collect();
    if faults.is_empty() { Ok(()) } else { Err(Error::Weak(faults)) }
}

fn api_token_row(stored: store::StoredApiToken) -> ApiTokenRow {
    ApiTokenRow {
        id: stored.id,
        name: stored.name,
        scope: if stored.can_write { Scope::Write } else { Scope::Read },
        created_unix_ms: stored.created_at,
        expires_unix_ms: stored.expires_at,
        seen_unix_ms: stored.seen_at,
        revoked_unix_ms: stored.revoked_at,
    }
}

fn entry(at_unix_ms: u64, actor: &Actor, action: &'static str, target: &str, detail: serde_json::Value) -> Entry {
    Entry { at_unix_ms, actor: actor.to_string(), action, target: target.to_owned(), detail, alarm: false }
}

fn user_entry(at_unix_ms: u64, name: &str, action: &'static str, detail: serde_json::Value) -> Entry {
    Entry { at_unix_ms, actor: format!("user {name}"), action, target: name.to_owned(), detail, alarm: false }
}

/// On a full disk people still get in to look.
fn noted(done: Result<(), store::Error>) {
    if let Err(error) = done {
        tracing::warn!(error = agentd_sys::causes::chain(&error), "who was here is not noted");
    }
}
