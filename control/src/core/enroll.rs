//! Taking hosts in: tokens, and the wish of a host that has one.

use agentd_protocol::control::dsse::Envelope;
use agentd_protocol::control::enroll::{Enroll, Enrolled, NAME_BYTES_MAX, Pace, Pending, RECEIPT_TYPE, Receipt};
use agentd_protocol::control::ids::{HostId, StackId, TokenId};
use agentd_protocol::control::join::{JoinString, TTL_SECS_DEFAULT};
use agentd_protocol::control::key::{PublicKey, SecretKey};
use agentd_protocol::control::statement::Endpoints;
use serde_json::json;

use super::fleet::HostNow;
use super::handle::entry;
use super::{Actor, Control, Error, names, statements};
use crate::clock;
use crate::model::{NewToken, TokenMade, TokenRow, TokenState};
use crate::seal::random;
use crate::store::{Admission, NewHost, NewTokenRow, StoredHost, StoredStanding, StoredToken};

const TTL_SECS_MAX: u64 = 30 * 24 * 3_600;
/// How often a host that waits for a person asks again, seconds.
const PENDING_RETRY_SECS: u64 = 5;
/// Of what a host says of its system.
const FACT_CHARS_MAX: usize = 100;

/// What a wish to be taken in led to.
#[derive(Debug, Clone)]
pub enum Welcome {
    /// The first time.
    New(Enrolled),
    Again(Enrolled),
    Pending(Pending),
}

impl Control {
    /// Newest first.
    pub async fn tokens(&self, stack: &StackId) -> Result<Vec<TokenRow>, Error> {
        self.stored_stack(stack)?;
        Ok(self
            .inner
            .store
            .tokens(stack)
            .await?
            .into_iter()
            .map(|token| token_row(token, clock::now_unix_ms()))
            .collect())
    }

    /// The same `idempotency_key` again answers as the first time.
    pub async fn create_token(
        &self,
        actor: &Actor,
        stack: &StackId,
        new: NewToken,
        idempotency_key: Option<&str>,
    ) -> Result<TokenMade, Error> {
        let stored = self.stored_stack(stack)?;
        let request = json!({"call": "token", "stack": stack, "body": new});
        let memory = self.recall(actor, idempotency_key, &request).await?;
        if let Some(made) = memory.answer()? {
            return Ok(made);
        }
        let ttl_s = new.ttl_s.unwrap_or(TTL_SECS_DEFAULT);
        if !(1..=TTL_SECS_MAX).contains(&ttl_s) {
            return Err(Error::BadRequest(format!("ttl_s is 1 to {TTL_SECS_MAX}")));
        }
        let (now, key) = (clock::now_unix_ms(), SecretKey::from_seed(&*random()?));
        let row = NewTokenRow {
            id: TokenId::of(&*random()?),
            stack: stack.clone(),
            public: key.public(),
            note: names::optional_name(&new.note)?,
            labels: names::labels(&new.labels)?,
            approval: new.approval,
            actor: actor.to_string(),
            created_at: now,
            expires_at: now.saturating_add(ttl_s * 1_000),
        };
        let roots = self.inner.store.roots(stack).await?;
        let (root, _) = roots.first().ok_or_else(|| Error::not_found("root 1"))?;
        let join = JoinString {
            url: self.inner.settings.public_url.clone(),
            stack: stack.clone(),
            token: row.id.clone(),
            key,
            root: *root,
            expires: clock::time_of(row.expires_at),
        };
        let made = made(&row, &join);
        let detail = json!({"stack": stack, "stack_name": stored.name, "note": row.note, "ttl_s": ttl_s,
            "approval": row.approval, "labels": row.labels});
        let entry = entry(actor, "token.create", &row.id, detail);
        if self.inner.store.create_token(row, memory.to_remember(&made)?, entry).await? {
            self.changed();
            return Ok(made);
        }
        let memory = self.recall(actor, idempotency_key, &request).await?;
        memory.answer()?.ok_or(Error::IdempotencyMismatch)
    }

    pub async fn revoke_token(&self, actor: &Actor, token: &TokenId) -> Result<TokenRow, Error> {
        let unknown = || Error::not_found(format!("token {token}"));
        self.inner.store.token(token).await?.ok_or_else(unknown)?;
        let entry = entry(actor, "token.revoke", token, json!({}));
        self.inner.store.revoke_token(token, clock::now_unix_ms(), entry).await?;
        self.changed();
        let stored = self.inner.store.token(token).await?.ok_or_else(unknown)?;
        Ok(token_row(stored, clock::now_unix_ms()))
    }

    /// The key whose signature proves that somebody has the token.
    pub async fn token_key(&self, token: &TokenId) -> Result<PublicKey, Error> {
        Ok(self.inner.store.token(token).await?.ok_or(Error::TokenInvalid)?.public)
    }

    /// Both signatures have been checked: that of `token`, and that of the host's own key.
    pub async fn enroll(&self, token: &TokenId, wish: Enroll) -> Result<Welcome, Error> {
        let new = self.new_host(HostId::of(&*random()?), &wish)?;
        let new_name = new.name.clone();
        match self.inner.store.redeem(token, new, clock::now_unix_ms()).await? {
            Admission::New(host) => {
                self.know(&host);
                self.welcome(&host, Welcome::New).await
            }
            Admission::Again(host) => {
                // The first time may have been cut off before it was known here.
                self.know(&host);
                self.welcome(&host, Welcome::Again).await
            }
            Admission::TokenInvalid => Err(Error::TokenInvalid),
            Admission::TokenExpired => Err(Error::TokenExpired),
            Admission::TokenUsed { by } => {
                let detail = json!({"name": new_name, "machine": wish.machine, "key": wish.key.id()});
                let mut entry = entry(&Actor::Server, "token.used-twice", by, detail);
                (entry.actor, entry.alarm) = (format!("token {token}"), true);
                self.inner.store.append_counted(entry, token.as_str()).await?;
                tracing::warn!(%token, name = names::shown(&wish.name, NAME_BYTES_MAX), "a token was used a second time");
                self.changed();
                Err(Error::TokenUsed)
            }
        }
    }

    /// A host that has a receipt of this server and no place in its database. Its own signature has been checked.
    pub async fn readopt(&self, receipt: &Envelope, wish: Enroll) -> Result<Welcome, Error> {
        if !self.fleet().stacks.contains_key(&wish.stack) {
            return Err(Error::TokenInvalid);
        }
        let keys = self.keys_of(&wish.stack).await?;
        let payload = receipt.open(RECEIPT_TYPE, &[keys.fresh.public()], 1).map_err(|_| Error::TokenInvalid)?;
        let receipt: Receipt = serde_json::from_slice(&payload).map_err(|_| Error::TokenInvalid)?;
        if receipt.key != wish.key || receipt.stack != wish.stack {
            return Err(Error::TokenInvalid);
        }
        let new = self.new_host(receipt.host, &wish)?;
        let host = self.inner.store.readopt(new, clock::now_unix_ms()).await?;
        if host.key != wish.key {
            return Err(Error::TokenInvalid);
        }
        self.know(&host);
        self.welcome(&host, Welcome::Again).await
    }

    fn new_host(&self, id: HostId, wish: &Enroll) -> Result<NewHost, Error> {
        if !self.fleet().stacks.contains_key(&wish.stack) {
            return Err(Error::TokenInvalid);
        }
        let name = names::shown(&wish.name, NAME_BYTES_MAX);
        let name = if name.trim().is_empty() { id.to_string() } else { name };
        Ok(NewHost {
            id,
            stack: wish.stack.clone(),
            name,
            labels: names::labels(&wish.labels)?,
            key: wish.key,
            machine: wish.machine,
            os: names::shown(&wish.os, FACT_CHARS_MAX),
            arch: names::shown(&wish.arch, FACT_CHARS_MAX),
            code: code()?,
        })
    }

    fn know(&self, host: &StoredHost) {
        let mut fleet = self.fleet();
        fleet.hosts.entry(host.id.clone()).or_insert_with(|| HostNow::of(host.clone()));
        drop(fleet);
        self.changed();
    }

    async fn welcome(&self, host: &StoredHost, how: fn(Enrolled) -> Welcome) -> Result<Welcome, Error> {
        match &host.standing {
            StoredStanding::Revoked { .. } => return Err(Error::HostRevoked),
            StoredStanding::Pending { code } => {
                let (status, code) = ("pending".to_owned(), code.clone());
                return Ok(Welcome::Pending(Pending { status, code, retry_s: PENDING_RETRY_SECS, time: clock::now() }));
            }
            StoredStanding::Active => {}
        }
        let stack = self.stored_stack(&host.stack)?;
        let keys = self.keys_of(&host.stack).await?;
        let receipt = Receipt { host: host.id.clone(), key: host.key, stack: stack.id.clone(), issued: clock::now() };
        let roots = self.inner.store.roots(&stack.id).await?;
        let roots: Result<Vec<Envelope>, _> = roots.iter().map(|(_, json)| serde_json::from_str(json)).collect();
        Ok(how(Enrolled {
            host: host.id.clone(),
            name: host.name.clone(),
            stack_name: stack.name.clone(),
            receipt: statements::receipt(&receipt, &keys),
            roots: roots.map_err(|_| crate::seal::Error::Sealed)?,
            endpoints: Endpoints { control: vec![self.inner.settings.public_url.clone()] },
            report: self.pace(&stack.id),
            time: clock::now(),
        }))
    }

    /// How often hosts of that stack report.
    pub(super) fn pace(&self, stack: &StackId) -> Pace {
        let fleet = self.fleet();
        let hosts = u64::try_from(fleet.hosts.len()).unwrap_or(u64::MAX);
        let poll_s = fleet.stacks.get(stack).map_or(INTERVAL_SECS_MIN, |stack| stack.stored.poll_s.max(1));
        let interval_s = INTERVAL_SECS_MIN.max(hosts / REPORTS_PER_SEC);
        let spread_s = (hosts / REPORTS_PER_SEC).clamp(1, SPREAD_SECS_MAX);
        Pace { interval_s: interval_s.min(poll_s), hold_s: HOLD_SECS.min(poll_s), spread_s }
    }
}

/// Between reports of one host that are not held, seconds.
const INTERVAL_SECS_MIN: u64 = 30;
/// What one machine with SQLite takes in.
const REPORTS_PER_SEC: u64 = 500;
const SPREAD_SECS_MAX: u64 = 600;
/// Shorter than the minute after which many proxies cut a silent request off.
const HOLD_SECS: u64 = 50;

/// `WXQR-4821`: letters that are not mistaken for one another or for digits.
fn code() -> Result<String, Error> {
    const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZ";
    let random = random::<8>()?;
    let letter = |byte: &u8| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]);
    let digit = |byte: &u8| char::from(b'0' + byte % 10);
    let (letters, digits) = random.split_at(4);
    Ok(letters.iter().map(letter).chain(['-']).chain(digits.iter().map(digit)).collect())
}

const OPEN_WARNING: &str = "Plain HTTP: whoever is on the way between host and server reads the join string and every \
                            environment variable, and can hand out another program to install.";

/// Hosts are to call another machine, and without TLS.
fn is_open(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    uri.scheme_str() == Some("http") && !is_here
}

fn made(row: &NewTokenRow, join: &JoinString) -> TokenMade {
    let join_text = join.reveal().to_string();
    // The join string goes through a pipe: arguments are seen by everybody on the machine.
    let is_open = is_open(&join.url);
    let allow = if is_open { " --allow-plain-http" } else { "" };
    let command = format!(
        "curl -fsSL {}/install.sh -o install.sh && echo {join_text} | $(command -v sudo) sh install.sh --join -{allow}",
        join.url
    );
    let warning = is_open.then(|| OPEN_WARNING.to_owned());
    let token = TokenRow {
        id: row.id.clone(),
        stack: row.stack.clone(),
        note: row.note.clone(),
        labels: row.labels.clone(),
        approval: row.approval,
        state: TokenState::Open,
        by: row.actor.clone(),
        created_unix_ms: row.created_at,
        expires_unix_ms: row.expires_at,
    };
    TokenMade { token, join: join_text, command, warning }
}

fn token_row(token: StoredToken, now: u64) -> TokenRow {
    let state = match (token.used, token.revoked_at) {
        (Some((by, at_unix_ms)), _) => TokenState::Used { by, at_unix_ms },
        (None, Some(at_unix_ms)) => TokenState::Revoked { at_unix_ms },
        (None, None) if token.expires_at <= now => TokenState::Expired,
        (None, None) => TokenState::Open,
    };
    TokenRow {
        id: token.id,
        stack: token.stack,
        note: token.note,
        labels: token.labels,
        approval: token.approval,
        state,
        by: token.actor,
        created_unix_ms: token.created_at,
        expires_unix_ms: token.expires_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_tls_for_other_machines_is_told_of() {
        for url in ["https://control.example.com", "http://127.0.0.1:9440", "http://[::1]:1", "http://localhost:9440"] {
            assert!(!is_open(url), "{url}");
        }
        for url in
            ["http://control.example.com", "http://192.0.2.1:9440", "http://[2001:db8::1]", "http://localhost.lan"]
        {
            assert!(is_open(url), "{url}");
        }
    }
}
