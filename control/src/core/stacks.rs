//! Making and naming stacks, holding them, and keeping their fresh notes young.

use agentd_protocol::control::dsse::Envelope;
use agentd_protocol::control::ids::StackId;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::statement::FRESH_RENEW_SECS;
use serde_json::json;

use super::handle::{entry, purpose_of_key};
use super::statements::{self, Currency, Keys};
use super::{Actor, Control, Error, names};
use crate::clock;
use crate::model::{NewStack, StackEdit, StackOverview};
use crate::seal::random;
use crate::store::{Entry, HeadPut, NewHead, NewStackRow, Role, StoredKey, StoredStack};

/// Of a stack that has no document yet.
const POLL_SECS_FIRST: u64 = 15;
const STACKS_MAX: usize = 1_000;

/// Whether hosts may take the newest version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Held,
    Open,
}

impl Control {
    pub async fn create_stack(&self, actor: &Actor, new: NewStack) -> Result<StackOverview, Error> {
        let (name, environment) = (names::name(&new.name)?, names::optional_name(&new.environment)?);
        if self.fleet().stacks.len() >= STACKS_MAX {
            return Err(Error::Conflict(format!("there are {STACKS_MAX} stacks already")));
        }
        let id = StackId::of(&*random()?);
        let keys = Keys { root: new_key()?, version: new_key()?, fresh: new_key()? };
        let root = statements::first_root(&id, &keys, clock::now());
        let sealed = |role: Role, key: &SecretKey| -> Result<StoredKey, Error> {
            let sealed = self.inner.key.seal(&purpose_of_key(&id, role), key.seed().as_slice())?;
            Ok(StoredKey { role, public: key.public(), sealed })
        };
        let keys = vec![
            sealed(Role::Root, &keys.root)?,
            sealed(Role::Version, &keys.version)?,
            sealed(Role::Fresh, &keys.fresh)?,
        ];
        let row = NewStackRow {
            id: id.clone(),
            name: name.clone(),
            environment: environment.clone(),
            poll_s: POLL_SECS_FIRST,
            keys,
            root_payload: root.payload,
            root_envelope: serde_json::to_string(&root.envelope).expect("texts are JSON"),
            created_at: clock::now_unix_ms(),
        };
        let detail = json!({"name": name, "environment": environment, "root": root.payload});
        if !self.inner.store.create_stack(row, entry(actor, "stack.create", &id, detail)).await? {
            return Err(Error::Conflict(format!("a stack named {name} exists")));
        }
        self.reload_stack(&id).await?;
        self.overview(&id).await
    }

    pub async fn edit_stack(&self, actor: &Actor, id: &StackId, edit: StackEdit) -> Result<StackOverview, Error> {
        self.stored_stack(id)?;
        let name = edit.name.as_deref().map(names::name).transpose()?;
        let environment = edit.environment.as_deref().map(names::optional_name).transpose()?;
        let entry = entry(actor, "stack.edit", id, json!({"name": name, "environment": environment}));
        if !self.inner.store.edit_stack(id, name, environment, entry).await? {
            return Err(Error::Conflict("another stack has that name".to_owned()));
        }
        self.reload_stack(id).await?;
        self.overview(id).await
    }

    /// Hosts stay at what they run, whatever is published, until [`Control::resume`].
    pub async fn hold(&self, actor: &Actor, id: &StackId, reason: &str) -> Result<StackOverview, Error> {
        let entry = entry(actor, "stack.hold", id, json!({"reason": names::reason(reason)?}));
        self.set_flow(id, Flow::Held, entry).await
    }

    pub async fn resume(&self, actor: &Actor, id: &StackId, reason: &str) -> Result<StackOverview, Error> {
        let entry = entry(actor, "stack.resume", id, json!({"reason": names::reason(reason)?}));
        self.set_flow(id, Flow::Open, entry).await
    }

    async fn set_flow(&self, id: &StackId, flow: Flow, entry: Entry) -> Result<StackOverview, Error> {
        let stack = self.stored_stack(id)?;
        if stack.head.is_none() {
            return Err(Error::Conflict("nothing was published yet".to_owned()));
        }
        self.reissue(&stack, flow, Some(entry)).await?;
        self.overview(id).await
    }

    /// Before notes expire, and while hosts still have half a day.
    pub(super) async fn renew(&self) -> Result<(), Error> {
        let due: Vec<StoredStack> = {
            let now = clock::now().unix_secs();
            let is_due = |stack: &StoredStack| {
                let issued = stack.fresh_issued.map_or(0, |ms| clock::time_of(ms).unix_secs());
                // A note from the future was issued by a clock that was wrong: hosts may refuse it.
                stack.head.is_some() && (now - issued >= FRESH_RENEW_SECS || now < issued)
            };
            let fleet = self.fleet();
            fleet.stacks.values().map(|stack| &stack.stored).filter(|stack| is_due(stack)).cloned().collect()
        };
        for stack in due {
            let flow = if stack.held { Flow::Held } else { Flow::Open };
            // One stack's trouble is not the next one's.
            if let Err(error) = self.reissue(&stack, flow, None).await {
                tracing::warn!(stack = %stack.id, error = agentd_sys::causes::chain(&error), "its note is not renewed yet");
            }
        }
        Ok(())
    }

    async fn reissue(&self, stack: &StoredStack, flow: Flow, entry: Option<Entry>) -> Result<(), Error> {
        let newest = self.inner.store.version(&stack.id, stack.last_version).await?;
        let newest = newest.ok_or_else(|| Error::not_found("the newest version"))?;
        let keys = self.keys_of(&stack.id).await?;
        let envelope: Envelope = serde_json::from_str(&newest.envelope).map_err(|_| crate::seal::Error::Sealed)?;
        let about = Currency {
            stack: &stack.id,
            version: stack.last_version,
            statement: newest.payload,
            root: stack.root_number,
            poll_s: stack.poll_s,
            paused: flow == Flow::Held,
            url: &self.inner.settings.public_url,
        };
        let head = self.new_head(envelope, &about, &keys);
        match self.inner.store.put_head(&stack.id, stack.head_revision, head, entry).await? {
            HeadPut::Done => self.reload_stack(&stack.id).await,
            HeadPut::Moved => {
                self.reload_stack(&stack.id).await?;
                Err(Error::Conflict("somebody changed it meanwhile; look at it, then try again".to_owned()))
            }
        }
    }

    pub(super) fn new_head(&self, envelope: Envelope, about: &Currency<'_>, keys: &Keys) -> NewHead {
        let now = clock::now();
        let (body, until) = statements::head(envelope, about, keys, now);
        NewHead { body, fresh_issued: clock::ms_of(now), fresh_until: clock::ms_of(until), held: about.paused }
    }
}

fn new_key() -> Result<SecretKey, Error> {
    Ok(SecretKey::from_seed(&*random()?))
}
