//! What the kernel has, read back without trusting that it is what we wrote. Tolerant: nft's own JSON, any version.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use agentd_protocol::security::{Exposure, Mode};
use ipnet::IpNet;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::ruleset::layout::{DROPPED_FORWARD, DROPPED_IN, PRIORITY, SEAL, TIMED_SETS};
use super::{BreakGlass, Revision, Stamp};

/// What our table says is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// No table of ours: the firewall is as it was found.
    Absent,
    Confirmed {
        mode: Mode,
        revision: Revision,
    },
    Trial {
        from: Stamp,
        to: Stamp,
        /// Rounded up to a second; nothing left means that the kernel is back at `from`.
        left: Duration,
    },
    /// A table of ours that is not as it was when it was applied.
    Altered {
        reason: Alteration,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alteration {
    /// `input` or `forward` is missing.
    ChainMissing(&'static str),
    /// A base chain with another hook, priority, type or policy.
    ChainChanged(&'static str),
    /// The last rule is not the one that judges what no other did.
    NoFinalRule(&'static str),
    /// The two base chains are of different rulesets.
    Mixed,
    /// Applied only by half: we were stopped between the rules and their seal.
    Unsealed,
    /// Some rule, set or chain was added, removed or changed.
    Changed,
}

impl fmt::Display for Alteration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChainMissing(chain) => write!(f, "its chain `{chain}` is missing"),
            Self::ChainChanged(chain) => write!(f, "hook, priority or policy of its chain `{chain}` was changed"),
            Self::NoFinalRule(chain) => write!(f, "the last rule of its chain `{chain}` was removed or is not last"),
            Self::Mixed => f.write_str("its chains belong to different modes"),
            Self::Unsealed => f.write_str("its rules were never seen whole: applying them was cut short"),
            Self::Changed => f.write_str("a rule, set or chain of it was added, removed or changed"),
        }
    }
}

/// `table` is what nft lists of our table; `None` where there is none.
pub fn read(table: Option<&Value>) -> Found {
    let Some(table) = table else { return Found::Absent };
    judge(table).unwrap_or_else(|reason| Found::Altered { reason })
}

fn judge(table: &Value) -> Result<Found, Alteration> {
    let input = Base::read(table, "input")?;
    let forward = Base::read(table, "forward")?;
    if input.stamp != forward.stamp || input.trial != forward.trial {
        return Err(Alteration::Mixed);
    }
    for (chain, base) in [("trial_input", &input), ("trial_forward", &forward)] {
        if let Some(trial) = &base.trial
            && final_rule(table, chain).as_ref() != Some(trial)
        {
            return Err(Alteration::NoFinalRule(chain));
        }
    }
    match sealed(table) {
        None => return Err(Alteration::Unsealed),
        Some(seal) if seal != fingerprint(table) => return Err(Alteration::Changed),
        Some(_) => {}
    }
    Ok(match input.trial {
        Some(to) => Found::Trial { from: input.stamp, to, left: left(table, "armed") },
        None => Found::Confirmed { mode: input.stamp.mode, revision: input.stamp.revision },
    })
}

/// Worse than what was asked for is what counts: of a table that is not ours any more nobody knows what it lets in.
pub fn exposure(found: &Found) -> Exposure {
    match found {
        Found::Absent | Found::Altered { .. } => Exposure::Unmanaged,
        Found::Confirmed { mode, .. } => mode.exposure(),
        Found::Trial { from, left: Duration::ZERO, .. } => from.mode.exposure(),
        Found::Trial { to, .. } => to.mode.exposure(),
    }
}

/// Packets refused since the table was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    pub input: u64,
    pub forward: u64,
}

pub fn dropped(table: &Value) -> Dropped {
    let packets = |name: &str| {
        objects(table, "counter")
            .find(|counter| counter["name"] == name)
            .and_then(|counter| counter["packets"].as_u64())
    };
    Dropped { input: packets(DROPPED_IN).unwrap_or(0), forward: packets(DROPPED_FORWARD).unwrap_or(0) }
}

/// Whom SSH is still let in for, by the kernel's clock (T2).
pub fn break_glass(table: &Value) -> Option<BreakGlass> {
    let ssh: Vec<IpNet> =
        ["glass4", "glass6"].into_iter().flat_map(|set| elements(table, set)).filter_map(network).collect();
    let left = left(table, "glass4").max(left(table, "glass6"));
    (!ssh.is_empty()).then(|| BreakGlass { ssh: IpNet::aggregate(&ssh), left })
}

struct Base {
    stamp: Stamp,
    trial: Option<Stamp>,
}

impl Base {
    fn read(table: &Value, name: &'static str) -> Result<Self, Alteration> {
        let chain =
            objects(table, "chain").find(|chain| chain["name"] == name).ok_or(Alteration::ChainMissing(name))?;
        let stamp = final_rule(table, name).ok_or(Alteration::NoFinalRule(name))?;
        let first = rules(table, name).next();
        let trial = first
            .filter(|rule| rule["expr"].as_array().is_some_and(|acts| acts.iter().any(|act| act.get("goto").is_some())))
            .and_then(|rule| Stamp::find(rule["comment"].as_str()?))
            .filter(|_| rules(table, name).nth(1).is_some());
        let policy = if stamp.mode == Mode::Open { "accept" } else { "drop" };
        let as_made = chain["type"] == "filter"
            && chain["hook"] == name
            && chain["prio"] == PRIORITY
            && chain["policy"] == policy;
        if !as_made {
            return Err(Alteration::ChainChanged(name));
        }
        Ok(Self { stamp, trial })
    }
}

/// The mark of a chain's last rule, if that judges every packet as its mode demands.
fn final_rule(table: &Value, chain: &str) -> Option<Stamp> {
    let last = rules(table, chain).last()?;
    let stamp = Stamp::find(last["comment"].as_str()?)?;
    let verdict = if stamp.mode == Mode::Open { "accept" } else { "drop" };
    let acts = last["expr"].as_array()?;
    let (end, before) = acts.split_last()?;
    let always = end.get(verdict).is_some() && before.iter().all(|act| act.get("counter").is_some());
    always.then_some(stamp)
}

fn objects<'a>(table: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    table["nftables"].as_array().into_iter().flatten().filter_map(move |object| object.get(kind))
}

fn rules<'a>(table: &'a Value, chain: &'a str) -> impl Iterator<Item = &'a Value> {
    objects(table, "rule").filter(move |rule| rule["chain"] == chain)
}

fn elements<'a>(table: &'a Value, set: &'a str) -> impl Iterator<Item = &'a Value> {
    objects(table, "set").filter(move |found| found["name"] == set).filter_map(|set| set["elem"].as_array()).flatten()
}

fn left(table: &Value, set: &str) -> Duration {
    let expires = elements(table, set).filter_map(|element| element["elem"]["expires"].as_u64()).max();
    expires.map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds.saturating_add(1)))
}

fn network(element: &Value) -> Option<IpNet> {
    let value = &element["elem"]["val"];
    if let Some(address) = value.as_str() {
        return address.parse::<IpAddr>().ok().map(IpNet::from);
    }
    let prefix = &value["prefix"];
    let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
    IpNet::new(prefix["addr"].as_str()?.parse().ok()?, length).ok()
}

/// What is in a table: its objects by kind and name, and the comments of each chain's rules in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Contents {
    objects: BTreeSet<(String, String)>,
    rules: BTreeMap<String, Vec<String>>,
}

impl Contents {
    fn add(&mut self, kind: &str, object: &Value) {
        let word = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        match kind {
            "rule" => self.rules.entry(word("chain")).or_default().push(word("comment")),
            "element" | "metainfo" => {}
            _ => drop(self.objects.insert((kind.to_owned(), word("name")))),
        }
    }

    fn delete(&mut self, kind: &str, object: &Value) {
        self.objects.remove(&(kind.to_owned(), object["name"].as_str().unwrap_or_default().to_owned()));
    }
}

/// As nft lists them.
pub(super) fn contents(table: &Value) -> Contents {
    let mut contents = Contents::default();
    for (kind, object) in table["nftables"].as_array().into_iter().flatten().filter_map(Value::as_object).flatten() {
        contents.add(kind, object);
    }
    contents
}

/// What a transaction that replaces all leaves behind.
pub(super) fn written(transaction: &Value) -> Contents {
    let mut contents = Contents::default();
    for (act, what) in transaction["nftables"].as_array().into_iter().flatten().filter_map(Value::as_object).flatten() {
        for (kind, object) in what.as_object().into_iter().flatten() {
            match act.as_str() {
                "add" => contents.add(kind, object),
                "delete" => contents.delete(kind, object),
                _ => {}
            }
        }
    }
    contents
}

fn sealed(table: &Value) -> Option<Ipv6Addr> {
    elements(table, SEAL).next()?.as_str()?.parse().ok()
}

/// Names all of a table that must not change by itself. nft prints rules in its own way, another one from version to
/// version: so what is compared is what one nft read right after applying with what it reads now. It is kept in the
/// table, as the one element of the set `seal`, and is in the shape of an IPv6 address because sets have no strings.
pub(super) fn fingerprint(table: &Value) -> Ipv6Addr {
    let mut hash = Sha256::new();
    for object in table["nftables"].as_array().into_iter().flatten() {
        if object.get("metainfo").is_none() {
            hash.update(plain(object, None).to_string());
            hash.update("\n");
        }
    }
    let digest: [u8; 32] = hash.finalize().into();
    let (half, _) = digest.split_first_chunk::<16>().expect("32 bytes hold 16");
    Ipv6Addr::from(*half)
}

/// Without what changes by itself, and in one order: the kernel gives a set's elements in the order of its hash.
fn plain(value: &Value, key: Option<&str>) -> Value {
    match value {
        Value::Object(fields) => {
            let name = fields.get("name").and_then(Value::as_str).unwrap_or_default();
            let by_itself = |field: &str, value: &Value| match field {
                "handle" | "packets" | "bytes" => true,
                "elem" => name == SEAL || (TIMED_SETS.contains(&name) && all_expire(value)),
                _ => false,
            };
            let mut kept: Vec<(&String, &Value)> =
                fields.iter().filter(|(field, value)| !by_itself(field, value)).collect();
            kept.sort_by_key(|(field, _)| *field);
            kept.into_iter().map(|(field, value)| (field.clone(), plain(value, Some(field)))).collect()
        }
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(|item| plain(item, None)).collect();
            if matches!(key, Some("set" | "flags" | "elem")) {
                items.sort_by_key(Value::to_string);
            }
            Value::Array(items)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// An element of a timed set that stays for ever is none of ours.
fn all_expire(elements: &Value) -> bool {
    elements.as_array().is_some_and(|elements| elements.iter().all(|element| !element["elem"]["expires"].is_null()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As nft lists what we applied, with its seal.
    fn table(mode: &str) -> Value {
        let chain = |name: &str| {
            json!({"chain": {"family": "inet", "name": name, "handle": 1, "type": "filter", "hook": name,
                "prio": -10, "policy": "drop"}})
        };
        let rule = |name: &str| {
            json!({"rule": {"chain": name, "handle": 9, "comment": format!("D1 drop; mode={mode} rev=00"),
                "expr": [{"counter": "dropped_in"}, {"drop": null}]}})
        };
        let set = json!({"set": {"name": "glass4", "elem": []}});
        let counter = json!({"counter": {"name": "dropped_in", "packets": 5_000_000_000_u64, "bytes": 1}});
        let objects = vec![counter, set, chain("input"), chain("forward"), rule("input"), rule("forward")];
        seal(json!({ "nftables": objects }))
    }

    fn seal(mut table: Value) -> Value {
        let print = fingerprint(&table).to_string();
        table["nftables"].as_array_mut().unwrap().push(json!({"set": {"name": SEAL, "elem": [print]}}));
        let print = fingerprint(&table).to_string();
        *table["nftables"].as_array_mut().unwrap().last_mut().unwrap() =
            json!({"set": {"name": SEAL, "elem": [print]}});
        table
    }

    #[test]
    fn what_changes_by_itself_is_no_change() {
        let mut table = table("tunnel");
        let confirmed = Found::Confirmed { mode: Mode::Tunnel, revision: Revision("00".to_owned()) };
        assert_eq!(read(Some(&table)), confirmed);
        table["nftables"][0]["counter"]["packets"] = json!(7_000_000_000_u64);
        table["nftables"][1]["set"]["elem"] = json!([{"elem": {"val": "1.2.3.4", "timeout": 9, "expires": 8}}]);
        assert_eq!(read(Some(&table)), confirmed);
        assert_eq!(dropped(&table).input, 7_000_000_000);
        let glass = break_glass(&table).unwrap();
        assert_eq!((glass.ssh, glass.left), (vec!["1.2.3.4/32".parse().unwrap()], Duration::from_secs(9)));
        table["nftables"][1]["set"]["elem"] = json!(["1.2.3.4"]);
        assert_eq!(read(Some(&table)), Found::Altered { reason: Alteration::Changed }, "one that stays for ever");
    }

    #[test]
    fn a_table_of_two_minds_is_altered() {
        let mut mixed = table("tunnel");
        mixed["nftables"][5]["rule"]["comment"] = json!("D4 drop; mode=daemon-port rev=01");
        assert_eq!(read(Some(&mixed)), Found::Altered { reason: Alteration::Mixed });
        let mut conditional = table("tunnel");
        conditional["nftables"][4]["rule"]["expr"][0] = json!({"match": {}});
        assert_eq!(read(Some(&conditional)), Found::Altered { reason: Alteration::NoFinalRule("input") });
        assert_eq!(read(Some(&json!({"nftables": []}))), Found::Altered { reason: Alteration::ChainMissing("input") });
    }

    #[test]
    fn exposure_is_of_what_is_in_force() {
        let stamp = |mode| Stamp { mode, revision: Revision("00".to_owned()) };
        let trial = |left| Found::Trial { from: stamp(Mode::Open), to: stamp(Mode::Tunnel), left };
        assert_eq!(exposure(&read(None)), Exposure::Unmanaged);
        assert_eq!(exposure(&trial(Duration::from_secs(3))), Exposure::None);
        assert_eq!(exposure(&trial(Duration::ZERO)), Exposure::Unmanaged, "the kernel went back");
        assert_eq!(exposure(&Found::Altered { reason: Alteration::Changed }), Exposure::Unmanaged);
        assert_eq!(exposure(&read(Some(&table("daemon-port")))), Exposure::DaemonPort);
    }
}
