//! The draft of a stack: saved with its values sealed, shown without them, compared with what was published.

use std::collections::BTreeMap;

use agentd_protocol::control::ids::StackId;
use agentd_protocol::ids::Version;
use agentd_protocol::published::join_salted;
use agentd_protocol::stack::{DOCUMENT_BYTES_MAX, Revision, Stack};
use serde_json::json;

use super::handle::entry;
use super::{Actor, Control, Error, diff, document};
use crate::clock;
use crate::model::{Diff, Draft, DraftFormat, DraftProblem, Side};
use crate::store::{NewDraft, ObjectKind, SealedEnv, StoredDraft, StoredVersion};

impl Control {
    /// Revision 0 with an empty text where nothing was saved yet.
    pub async fn draft(&self, stack: &StackId) -> Result<Draft, Error> {
        self.stored_stack(stack)?;
        let Some(stored) = self.inner.store.draft(stack).await? else {
            return Ok(Draft {
                stack: stack.clone(),
                revision: 0,
                format: DraftFormat::Toml,
                text: String::new(),
                by: String::new(),
                saved_unix_ms: 0,
                problems: Vec::new(),
                diff: None,
            });
        };
        let (problems, diff) = match self.open_draft(stack, &stored) {
            Ok(content) => (Vec::new(), Some(self.diff_with_newest(stack, content).await?)),
            Err(Error::Document(problems)) => (problems, None),
            Err(error) => return Err(error),
        };
        Ok(Draft {
            stack: stack.clone(),
            revision: stored.revision,
            format: stored.format,
            text: stored.text,
            by: stored.actor,
            saved_unix_ms: stored.saved_at,
            problems,
            diff,
        })
    }

    /// `revision`: the one that was looked at; 0 for a stack without a draft. What cannot be taken apart is refused; what
    /// can is saved, with its problems told.
    pub async fn save_draft(
        &self,
        actor: &Actor,
        stack: &StackId,
        revision: u64,
        format: DraftFormat,
        text: String,
    ) -> Result<Draft, Error> {
        self.stored_stack(stack)?;
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(Error::BodyTooLarge { bytes_max: DOCUMENT_BYTES_MAX });
        }
        let taken = document::take(&text, format).map_err(Error::Document)?;
        let problems = document::problems(&text, format);
        let mut old = self.inner.store.draft(stack).await?.map(|draft| draft.env).unwrap_or_default();
        let mut env: SealedEnv = taken
            .kept
            .iter()
            .filter_map(|variable| old.remove(variable).map(|sealed| (variable.clone(), sealed)))
            .collect();
        for (variable, value) in &taken.values {
            let sealed = self.inner.key.seal(&purpose(stack, variable), value.as_bytes())?;
            env.insert(variable.clone(), sealed);
        }
        let (now, by) = (clock::now_unix_ms(), actor.to_string());
        // Anybody may claim to have seen the last revision that a number has; the store refuses what is not there.
        let detail = json!({"revision": revision.saturating_add(1), "problems": problems.len(), "new_values": taken.values.len()});
        let new =
            NewDraft { stack: stack.clone(), seen: revision, format, text: taken.text, env, actor: by, saved_at: now };
        let entry = entry(actor, "draft.save", stack, detail);
        match self.inner.store.save_draft(new, entry).await? {
            Ok(_) => {
                self.changed();
                self.draft(stack).await
            }
            Err(found) => Err(Error::Revision { found }),
        }
    }

    /// The stack a draft describes, values put back.
    pub(super) fn open_draft(&self, id: &StackId, draft: &StoredDraft) -> Result<Stack, Error> {
        let mut stack = document::parse(&draft.text, draft.format).map_err(Error::Document)?;
        let mut missing: Vec<DraftProblem> = Vec::new();
        for (index, service) in stack.service.iter_mut().enumerate() {
            for (name, value) in &mut service.env {
                let variable = (service.name.to_string(), name.clone());
                match draft.env.get(&variable) {
                    Some(sealed) => {
                        let opened = self.inner.key.open(&purpose(id, &variable), sealed)?;
                        let text = std::str::from_utf8(&opened).map_err(|_| crate::seal::Error::Sealed)?;
                        text.clone_into(value);
                    }
                    None => missing.push(document::problem(
                        format!("/service/{index}/env/{name}"),
                        format!("no value is kept for {name} of {}: write one in place of the marker", service.name),
                    )),
                }
            }
        }
        if missing.is_empty() { Ok(stack) } else { Err(Error::Document(missing)) }
    }

    /// The stack of a version, values put back; `None` for version 0.
    pub(super) async fn open_version(
        &self,
        id: &StackId,
        number: Version,
    ) -> Result<Option<(StoredVersion, Stack)>, Error> {
        if number.0 == 0 {
            return Ok(None);
        }
        let unknown = || Error::not_found(format!("version {number}"));
        let version = self.inner.store.version(id, number).await?.ok_or_else(unknown)?;
        let (_, state) = self.object(id, &version.state).await?.ok_or_else(unknown)?;
        let (_, env) = self.object(id, &version.env).await?.ok_or_else(unknown)?;
        let stack = join_salted(&state, &env).map_err(|_| crate::seal::Error::Sealed)?;
        Ok(Some((version, stack)))
    }

    /// Exact bytes of an object as hosts get it.
    pub(super) async fn object(
        &self,
        stack: &StackId,
        sha256: &agentd_protocol::digest::Digest,
    ) -> Result<Option<(ObjectKind, zeroize::Zeroizing<Vec<u8>>)>, Error> {
        let Some((kind, body)) = self.inner.store.object(stack, sha256).await? else { return Ok(None) };
        Ok(Some(match kind {
            ObjectKind::State => (kind, zeroize::Zeroizing::new(body)),
            ObjectKind::Env => (kind, self.inner.key.open(&purpose_of_object(stack, sha256), &body)?),
        }))
    }

    pub async fn diff(&self, stack: &StackId, from: Side, to: Side) -> Result<Diff, Error> {
        let newest = self.stored_stack(stack)?.last_version;
        let (mut from_refs, mut to_refs) = (BTreeMap::new(), BTreeMap::new());
        let mut from = self.side(stack, from, &mut from_refs).await?;
        let mut to = self.side(stack, to, &mut to_refs).await?;
        if from_refs.is_empty() && to_refs.is_empty() {
            // Both are drafts: what they follow is resolved the same.
            from_refs = self.refs_of(stack, newest).await?;
        }
        settle(from.as_mut(), &to_refs);
        settle(to.as_mut(), &from_refs);
        Ok(diff::diff(from.as_ref(), to.as_ref()))
    }

    async fn side(&self, stack: &StackId, side: Side, refs: &mut Refs) -> Result<Option<Stack>, Error> {
        match side {
            Side::Version(number) => {
                let Some((version, content)) = self.open_version(stack, number).await? else { return Ok(None) };
                *refs = refs_of(&version);
                Ok(Some(content))
            }
            Side::Draft => match self.inner.store.draft(stack).await? {
                Some(draft) => self.open_draft(stack, &draft).map(Some),
                None => Ok(None),
            },
        }
    }

    async fn refs_of(&self, stack: &StackId, number: Version) -> Result<Refs, Error> {
        Ok(self.inner.store.version(stack, number).await?.map(|version| refs_of(&version)).unwrap_or_default())
    }

    async fn diff_with_newest(&self, stack: &StackId, mut draft: Stack) -> Result<Diff, Error> {
        let newest = self.stored_stack(stack)?.last_version;
        let published = self.open_version(stack, newest).await?;
        if let Some((version, _)) = &published {
            settle(Some(&mut draft), &refs_of(version));
        }
        Ok(diff::diff(published.as_ref().map(|(_, content)| content), Some(&draft)))
    }
}

/// By service: the branch or tag, and the commit it meant when it was published.
pub(super) type Refs = BTreeMap<String, (String, agentd_protocol::ids::Commit)>;

pub(super) fn refs_of(version: &StoredVersion) -> Refs {
    let followed = version.services.iter().filter_map(|service| {
        let from = service.from.clone()?;
        Some((service.name.to_string(), (from, service.commit.clone())))
    });
    followed.collect()
}

/// A service that still follows what it followed is no difference by itself: where that points now, publishing finds out.
pub(super) fn settle(stack: Option<&mut Stack>, refs: &Refs) {
    for service in stack.into_iter().flat_map(|stack| &mut stack.service) {
        if let Revision::Ref(name) = &service.source
            && let Some((from, commit)) = refs.get(service.name.as_str())
            && from == name
        {
            service.source = Revision::Commit(commit.clone());
        }
    }
}

fn purpose(stack: &StackId, (service, name): &document::Variable) -> String {
    format!("env {stack} {service} {name}")
}

pub(super) fn purpose_of_object(stack: &StackId, sha256: &agentd_protocol::digest::Digest) -> String {
    format!("env object {stack} {sha256}")
}
