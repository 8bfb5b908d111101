//! Publishing: a draft, or an older version again, becomes the newest version. The commit of one transaction is the
//! moment: before it, hosts get the old head, after it the new one.

use std::collections::BTreeMap;

use agentd_protocol::control::ids::StackId;
use agentd_protocol::control::statement::{Note, ObjectRef, VersionStatement};
use agentd_protocol::control::{ENV_BYTES_MAX, FEATURES, STATE_BYTES_MAX};
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::{Commit, ServiceName, Version};
use agentd_protocol::published::split_salted;
use agentd_protocol::stack::{Revision, Stack};
use serde_json::json;

use super::handle::{entry, version_row};
use super::memory::Memory;
use super::statements::{self, Currency};
use super::{Actor, Control, Error, diff, document, drafts, names};
use crate::clock;
use crate::model::{Moved, Publish, VersionDetail, VersionKind, VersionRow, VersionService};
use crate::seal::random;
use crate::store::{NewVersion, ObjectKind, Put, StoredStack, StoredVersion};

const VERSIONS_PER_PAGE_MAX: u32 = 200;
/// Hosts ask at least so often, and not more often than so, seconds.
const POLL_SECS_MIN: u64 = 1;
const POLL_SECS_MAX: u64 = 3_600;

/// What a version is made of.
struct Content {
    stack: Stack,
    kind: VersionKind,
    /// Branch or tag of services that follow one.
    from: BTreeMap<ServiceName, String>,
    draft_revision: Option<u64>,
    /// The version whose objects come back, salt and all.
    again: Option<StoredVersion>,
}

impl Control {
    /// Publishes the draft of that revision. The same `idempotency_key` again answers as the first time.
    pub async fn publish(
        &self,
        actor: &Actor,
        stack: &StackId,
        revision: u64,
        asked: &Publish,
        idempotency_key: Option<&str>,
    ) -> Result<VersionRow, Error> {
        self.stored_stack(stack)?;
        let request = json!({"call": "publish", "stack": stack, "revision": revision, "asked": asked});
        let memory = self.recall(actor, idempotency_key, &request).await?;
        if let Some(row) = memory.answer()? {
            return Ok(row);
        }
        let draft = self.inner.store.draft(stack).await?;
        let draft = draft.ok_or_else(|| Error::Conflict("there is no draft to publish".to_owned()))?;
        if draft.revision != revision {
            return Err(Error::Revision { found: draft.revision });
        }
        let mut content = self.open_draft(stack, &draft)?;
        let from = self.resolve(&mut content).await?;
        let moved = moved(&content, &asked.expect);
        if !moved.is_empty() {
            return Err(Error::Moved(moved));
        }
        // Asking takes its time; somebody may have put the stack on hold.
        let stored = self.stored_stack(stack)?;
        let content =
            Content { stack: content, kind: VersionKind::Deploy, from, draft_revision: Some(revision), again: None };
        self.put_version(actor, &stored, content, names::reason(&asked.reason)?, memory).await
    }

    /// A new version with the content of an older one. `newest`: what it was when the caller looked, where that matters.
    pub async fn rollback(
        &self,
        actor: &Actor,
        stack: &StackId,
        to: Version,
        newest: Option<Version>,
        reason: &str,
        idempotency_key: Option<&str>,
    ) -> Result<VersionRow, Error> {
        let stored = self.stored_stack(stack)?;
        let request = json!({"call": "rollback", "stack": stack, "to": to, "reason": reason});
        let memory = self.recall(actor, idempotency_key, &request).await?;
        if let Some(row) = memory.answer()? {
            return Ok(row);
        }
        if newest.is_some_and(|newest| newest != stored.last_version) {
            let said = format!("version {} was published meanwhile: look at the difference now", stored.last_version);
            return Err(Error::Conflict(said));
        }
        let Some((old, content)) = self.open_version(stack, to).await? else {
            return Err(Error::not_found("version 0"));
        };
        let from = old.services.iter().filter_map(|service| Some((service.name.clone(), service.from.clone()?)));
        let content = Content {
            stack: content,
            kind: VersionKind::Rollback { of: to },
            from: from.collect(),
            draft_revision: None,
            again: Some(old.clone()),
        };
        self.put_version(actor, &stored, content, names::reason(reason)?, memory).await
    }

    async fn put_version(
        &self,
        actor: &Actor,
        stored: &StoredStack,
        content: Content,
        reason: String,
        memory: Memory,
    ) -> Result<VersionRow, Error> {
        let id = &stored.id;
        let before = self.open_version(id, stored.last_version).await?;
        let new = self.sign_version(actor, stored, &content, reason, before.as_ref()).await?;
        let row = version_row(StoredVersion {
            number: new.number,
            kind: new.kind,
            state: new.state,
            env: new.env,
            payload: new.payload,
            envelope: String::new(),
            services: Vec::new(),
            summary: new.summary.clone(),
            actor: new.actor.clone(),
            reason: new.reason.clone(),
            created_at: new.created_at,
        });
        let action = match new.kind {
            VersionKind::Deploy => "version.publish",
            VersionKind::Rollback { .. } => "version.rollback",
        };
        let detail = json!({"version": new.number, "kind": new.kind, "state": new.state, "reason": new.reason,
            "summary": new.summary});
        let entry = entry(actor, action, id, detail);
        match self.inner.store.publish(new, memory.to_remember(&row)?, entry).await? {
            Put::Done => {
                self.reload_stack(id).await?;
                Ok(row)
            }
            Put::HeadMoved => {
                // Should memory be behind the database, the next try is of what is there.
                self.reload_stack(id).await?;
                let text = "somebody published, held or resumed meanwhile; look at it, then try again";
                Err(Error::Conflict(text.to_owned()))
            }
            Put::DraftMoved { revision } => Err(Error::Revision { found: revision }),
            Put::Answered => Err(Error::Conflict("the same call is being answered; ask again".to_owned())),
        }
    }

    async fn sign_version(
        &self,
        actor: &Actor,
        stored: &StoredStack,
        content: &Content,
        reason: String,
        before: Option<&(StoredVersion, Stack)>,
    ) -> Result<NewVersion, Error> {
        let (id, now) = (&stored.id, clock::now());
        let (number, mut summary) = self.next_number(stored, clock::ms_of(now));
        summary.extend(diff::summary(&diff::diff(before.map(|(_, stack)| stack), Some(&content.stack))));
        let salt = self.salt_for(id, content, before).await?;
        let published = split_salted(&content.stack, &salt);
        check_sizes(&published.document, &published.env)?;
        let state = Digest::of(published.document.as_bytes());
        let env = Digest::of(published.env.as_bytes());
        let size = u64::try_from(published.document.len()).unwrap_or(u64::MAX);
        let (kind, of) = match content.kind {
            VersionKind::Deploy => ("deploy", None),
            VersionKind::Rollback { of } => ("rollback", Some(of)),
        };
        let by = actor.to_string();
        let note_reason = (!reason.is_empty()).then(|| reason.clone());
        let statement = VersionStatement {
            stack: id.clone(),
            epoch: stored.epoch,
            version: number,
            state: ObjectRef { sha256: state, size },
            prev: before.map_or(Digest::from_bytes([0; 32]), |(version, _)| version.payload),
            created: now,
            requires: FEATURES.map(str::to_owned).to_vec(),
            note: Some(Note { kind: kind.to_owned(), of, by: by.clone(), reason: note_reason }),
        };
        let keys = self.keys_of(id).await?;
        let signed = statements::version(&statement, &keys);
        let poll_s = content.stack.stack.poll_interval.0.as_secs().clamp(POLL_SECS_MIN, POLL_SECS_MAX);
        let about = Currency {
            stack: id,
            version: number,
            statement: signed.payload,
            root: stored.root_number,
            poll_s,
            paused: stored.held,
            url: &self.inner.settings.public_url,
        };
        let head = self.new_head(signed.envelope.clone(), &about, &keys);
        let sealed = self.inner.key.seal(&drafts::purpose_of_object(id, &env), published.env.as_bytes())?;
        Ok(NewVersion {
            stack: id.clone(),
            number,
            epoch: stored.epoch,
            kind: content.kind,
            state,
            env,
            objects: vec![(state, ObjectKind::State, published.document.into_bytes()), (env, ObjectKind::Env, sealed)],
            payload: signed.payload,
            envelope: serde_json::to_string(&signed.envelope).expect("texts are JSON"),
            services: services_of(content),
            summary,
            actor: by,
            reason,
            created_at: clock::ms_of(now),
            poll_s,
            head,
            after: stored.head_revision,
            draft_revision: content.draft_revision,
        })
    }

    /// Above all that hosts have seen, and what a person should know of it.
    fn next_number(&self, stored: &StoredStack, now_unix_ms: u64) -> (Version, Vec<String>) {
        let (seen, unheard) = {
            let fleet = self.fleet();
            (fleet.newest_seen(stored), fleet.unheard(&stored.id, now_unix_ms))
        };
        let number = Version(stored.last_version.max(seen).0 + 1);
        let warnings = numbering(stored.last_version, seen, unheard);
        for warning in &warnings {
            tracing::warn!(stack = %stored.id, %number, warning, "a number is given");
        }
        (number, warnings)
    }

    /// Drawn anew when a value changes, and kept while none does.
    async fn salt_for(
        &self,
        id: &StackId,
        content: &Content,
        before: Option<&(StoredVersion, Stack)>,
    ) -> Result<String, Error> {
        #[derive(serde::Deserialize)]
        struct Salt {
            salt: String,
        }
        let values = |stack: &Stack| -> BTreeMap<ServiceName, BTreeMap<String, String>> {
            let valued = stack.service.iter().filter(|service| !service.env.is_empty());
            valued.map(|service| (service.name.clone(), service.env.clone())).collect()
        };
        let unchanged = before.filter(|(_, old)| values(old) == values(&content.stack)).map(|(version, _)| version);
        if let Some(version) = content.again.as_ref().or(unchanged)
            && let Some((_, env)) = self.object(id, &version.env).await?
        {
            let kept: Salt = serde_json::from_slice(&env).map_err(|_| crate::seal::Error::Sealed)?;
            return Ok(kept.salt);
        }
        Ok(Digest::of(&random::<16>()?[..]).to_string().chars().take(32).collect())
    }

    /// Puts commits in the place of branches and tags, all at once; what was followed, by service.
    async fn resolve(&self, stack: &mut Stack) -> Result<BTreeMap<ServiceName, String>, Error> {
        let follows = stack.service.iter().enumerate().filter_map(|(index, service)| match &service.source {
            Revision::Ref(name) => Some((index, service.repo.clone(), name.clone())),
            Revision::Commit(_) => None,
        });
        let follows: Vec<(usize, String, String)> = follows.collect();
        let mut asked: BTreeMap<(String, String), Result<Commit, agentd_git::Error>> = BTreeMap::new();
        let mut questions: Vec<(String, String)> =
            follows.iter().map(|(_, repo, name)| (repo.clone(), name.clone())).collect();
        questions.sort();
        questions.dedup();
        let answers = futures_util::future::join_all(questions.into_iter().map(|(repo, name)| async move {
            let answer = self.ask(&repo, &name).await;
            ((repo, name), answer)
        }));
        asked.extend(answers.await);
        let (mut from, mut problems) = (BTreeMap::new(), Vec::new());
        for (index, repo, name) in follows {
            let service = &mut stack.service[index];
            match &asked[&(repo, name.clone())] {
                Ok(commit) => {
                    service.source = Revision::Commit(commit.clone());
                    from.insert(service.name.clone(), name);
                }
                Err(error) => {
                    let why = agentd_sys::causes::chain(error);
                    problems
                        .push(document::problem(format!("/service/{index}/ref"), format!("{}: {why}", service.name)));
                }
            }
        }
        if problems.is_empty() { Ok(from) } else { Err(Error::Unresolved(problems)) }
    }

    pub(super) async fn ask(&self, repo: &str, name: &str) -> Result<Commit, agentd_git::Error> {
        let credential = self.inner.git.credential_for(repo)?.map(str::to_owned);
        self.inner.git.resolve(repo, credential.as_deref(), name).await
    }

    /// Newest first, below `before`.
    pub async fn versions(
        &self,
        stack: &StackId,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<VersionRow>, Error> {
        self.stored_stack(stack)?;
        let versions = self.inner.store.versions(stack, before, limit.min(VERSIONS_PER_PAGE_MAX)).await?;
        Ok(versions.into_iter().map(version_row).collect())
    }

    pub async fn version(&self, stack: &StackId, number: Version) -> Result<VersionDetail, Error> {
        self.stored_stack(stack)?;
        let unknown = || Error::not_found(format!("version {number}"));
        let version = self.inner.store.version(stack, number).await?.ok_or_else(unknown)?;
        let (_, state) = self.object(stack, &version.state).await?.ok_or_else(unknown)?;
        let document = serde_json::from_slice(&state).map_err(|_| crate::seal::Error::Sealed)?;
        let services = version.services.clone();
        Ok(VersionDetail { row: version_row(version), services, document, hosts: self.hosts(Some(stack)).await? })
    }
}

/// What a person should know of a version's number: this database knows less than the hosts, as after a restore.
fn numbering(last: Version, seen: Version, unheard: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    if seen > last {
        warnings.push(format!(
            "numbered above {seen}, which hosts have seen: {last} was the newest here, so this database is older than that"
        ));
    }
    if unheard > 0 {
        let hosts = if unheard == 1 { "1 host has".to_owned() } else { format!("{unheard} hosts have") };
        warnings.push(format!(
            "{hosts} not reported to this database yet: one that has seen this number before refuses it; publish again then"
        ));
    }
    warnings
}

/// What is not as it was seen, of a stack that was resolved.
fn moved(stack: &Stack, expect: &BTreeMap<ServiceName, Commit>) -> Vec<Moved> {
    let found = |name: &ServiceName| {
        let service = stack.service.iter().find(|service| service.name == *name)?;
        match &service.source {
            Revision::Commit(commit) => Some(commit.clone()),
            Revision::Ref(_) => None,
        }
    };
    let seen = expect.iter().map(|(service, saw)| (service, saw, found(service)));
    let moved = seen.filter(|(_, saw, found)| found.as_ref() != Some(*saw));
    moved.map(|(service, saw, found)| Moved { service: service.clone(), saw: saw.clone(), found }).collect()
}

fn services_of(content: &Content) -> Vec<VersionService> {
    let service = |service: &agentd_protocol::stack::Service| match &service.source {
        Revision::Commit(commit) => Some(VersionService {
            name: service.name.clone(),
            repo: service.repo.clone(),
            from: content.from.get(&service.name).cloned(),
            commit: commit.clone(),
        }),
        Revision::Ref(_) => None,
    };
    content.stack.service.iter().filter_map(service).collect()
}

fn check_sizes(document: &str, env: &str) -> Result<(), Error> {
    if document.len() > STATE_BYTES_MAX || env.len() > ENV_BYTES_MAX {
        return Err(Error::BadRequest(format!(
            "as hosts get it, the document has {} bytes and its variables {}: {STATE_BYTES_MAX} and {ENV_BYTES_MAX} are the \
             most",
            document.len(),
            env.len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_knows_less_than_its_hosts_is_told_of() {
        assert!(numbering(Version(4), Version(4), 0).is_empty());
        let told = numbering(Version(4), Version(57), 1);
        assert!(told[0].contains("above 57") && told[0].contains("4 was the newest"), "{told:?}");
        assert!(told[1].starts_with("1 host has not reported"), "{told:?}");
    }
}
