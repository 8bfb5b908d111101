//! The host's side of the answers: what it would believe.

use std::collections::BTreeMap;

use agentd_protocol::control::dsse::Envelope;
use agentd_protocol::control::enroll::{Enrolled, RECEIPT_TYPE, Receipt};
use agentd_protocol::control::ids::StackId;
use agentd_protocol::control::key::PublicKey;
use agentd_protocol::control::statement::Role;
use agentd_protocol::control::time::Time;
use agentd_protocol::control::trust::{Decision, Now, Offer, Refused, TrustRecord, check_state, read_root};
use agentd_protocol::digest::Digest;
use agentd_protocol::published;
use anyhow::{Context, Result, bail};
use serde_json::json;

use super::fill::Values;
use super::vector::Verify;

/// What a token's join string said.
#[derive(Debug, Clone)]
pub(super) struct Pin {
    pub(super) stack: StackId,
    pub(super) root: Digest,
}

#[derive(Debug, Default)]
pub(super) struct Believed {
    pub(super) pins: BTreeMap<String, Pin>,
    record: Option<TrustRecord>,
    roots: Vec<Envelope>,
    offer: Option<Box<Offer>>,
    state: Option<Vec<u8>>,
}

impl Believed {
    /// Puts into `values` what later steps ask for: `state`, `env`, `version`.
    pub(super) fn verify(&mut self, what: &Verify, body: &[u8], now: Time, values: &mut Values) -> Result<()> {
        match what {
            Verify::Enrolled(token) => self.enrolled(token, body),
            Verify::OtherRoot(token) => {
                let enrolled: Enrolled = serde_json::from_slice(body)?;
                match self.begin(token, &enrolled.roots) {
                    Err(_refused) => Ok(()),
                    Ok(_) => bail!("the roots fit the pin of `{token}`, which is of another stack"),
                }
            }
            Verify::FirstRoot => {
                let envelope = read_root(body)?;
                if self.roots.first() != Some(&envelope) {
                    bail!("root/1.json is another root than the one that came with the enrolment");
                }
                Ok(())
            }
            Verify::Newer => {
                let Decision::Newer { record, offer } = self.decide(body, now)? else { bail!("no newer version") };
                values.insert("state".to_owned(), json!(offer.statement.state.sha256.to_string()));
                values.insert("version".to_owned(), json!(offer.statement.version.0));
                (self.record, self.offer) = (Some(record), Some(offer));
                Ok(())
            }
            Verify::Current => match self.decide(body, now)? {
                Decision::Current { record } => {
                    self.record = Some(record);
                    Ok(())
                }
                other => bail!("{other:?}, where nothing new was expected"),
            },
            Verify::Held => match self.decide(body, now)? {
                Decision::Held { .. } => Ok(()),
                other => bail!("{other:?}, where a version on hold was expected"),
            },
            Verify::State => {
                let offer = self.offer.as_ref().context("no version was offered before")?;
                check_state(offer, body)?;
                let env = published::env_digest(body).context("the state object names its env object")?;
                values.insert("env".to_owned(), json!(env.to_string()));
                self.record = self.record.take().map(|record| record.adopt(offer));
                self.state = Some(body.to_vec());
                Ok(())
            }
            Verify::Env => {
                let state = self.state.as_ref().context("no state object was fetched before")?;
                published::join_salted(state, body).context("state and env object make no stack")?;
                Ok(())
            }
        }
    }

    fn begin(&self, token: &str, roots: &[Envelope]) -> Result<TrustRecord> {
        let pin = self.pins.get(token).with_context(|| format!("no token is called `{token}`"))?;
        Ok(TrustRecord::begin(&pin.stack, &pin.root, roots)?)
    }

    fn enrolled(&mut self, token: &str, body: &[u8]) -> Result<()> {
        let enrolled: Enrolled = serde_json::from_slice(body).context("the answer is no enrolment")?;
        let record = self.begin(token, &enrolled.roots)?;
        let keys: Vec<PublicKey> = record.root.keys_of(Role::Fresh);
        let receipt = enrolled.receipt.open(RECEIPT_TYPE, &keys, 1).context("the receipt, by the fresh key")?;
        let receipt: Receipt = serde_json::from_slice(&receipt).context("the receipt's payload")?;
        if receipt.host != enrolled.host || receipt.stack != record.root.stack {
            bail!("the receipt is of another host or stack: {receipt:?}");
        }
        (self.record, self.roots) = (Some(record), enrolled.roots);
        Ok(())
    }

    fn decide(&self, head: &[u8], now: Time) -> Result<Decision, Refused> {
        let record = self.record.as_ref().ok_or(Refused::OtherRoot)?;
        record.decide(head, Now { clock: now, built: Time::EPOCH })
    }
}
