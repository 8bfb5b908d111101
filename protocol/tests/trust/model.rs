//! A publisher, a host whose disk, clock and power fail, and an attacker who owns the store in between and may have stolen
//! a key. Whatever happens: no version is applied twice backwards, none that nobody signed, and once the store is honest
//! again the host ends up at the newest version.

use agentd_protocol::control::dsse::Envelope;
use agentd_protocol::control::time::Time;
use agentd_protocol::control::trust::{Decision, Now, Refused, TrustRecord, check_state};
use agentd_protocol::digest::Digest;
use proptest::prelude::*;

use crate::publisher::*;

const STEPS: usize = 120;
const MINUTE: i64 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    Store,
    FreshKey,
    /// Until the next root.
    VersionKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    No,
    BeforePersist,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Applied {
    epoch: u64,
    version: u64,
    digest: Digest,
}

struct Agent {
    /// On disk.
    record: TrustRecord,
    log: Vec<Applied>,
}

impl Agent {
    /// One look at the store, with a power cut or without.
    fn look(&mut self, roots: &[Envelope], head: &[u8], now: Now, crash: Crash) -> Result<(), Refused> {
        let mut record = self.record.clone();
        // As the agent does: one root after the other, until there is none that follows.
        for root in roots {
            match record.clone().follow(std::slice::from_ref(root)) {
                Ok(followed) => record = followed,
                Err(Refused::RootOrder { .. } | Refused::Unverified { .. }) => {}
                Err(refused) => return Err(refused),
            }
        }
        let decision = record.decide(head, now);
        let (record, offer) = match decision {
            Ok(Decision::Newer { record, offer }) => (record, Some(offer)),
            Ok(Decision::Current { record } | Decision::Held { record, .. }) => (record, None),
            Err(refused) => {
                // A root that was verified counts, whatever came with it.
                if crash != Crash::BeforePersist {
                    self.record = record;
                }
                return Err(refused);
            }
        };
        let Some(offer) = offer else {
            self.record = record;
            return Ok(());
        };
        check_state(&offer, STATE)?;
        if crash == Crash::BeforePersist {
            return Ok(());
        }
        self.record = record.adopt(&offer);
        // Applied now or by the next start: the record and the version lie on disk together.
        let digest = self.record.floor.unwrap().statement;
        self.log.push(Applied { epoch: offer.statement.epoch, version: offer.statement.version.0, digest });
        Ok(())
    }
}

struct World {
    rng: fastrand::Rng,
    now: i64,
    keys: Keys,
    rotations: usize,
    epoch: u64,
    roots: Vec<Envelope>,
    number: u64,
    versions: Vec<Signed>,
    heads: Vec<(Signed, Envelope)>,
    forged: Vec<(Signed, Envelope)>,
    honest: Vec<Digest>,
}

impl World {
    fn new(seed: u64) -> Self {
        let keys = Keys::numbered(1);
        let roots = vec![sign_root(&root(1, 1, &keys), &[&keys.root])];
        Self {
            rng: fastrand::Rng::with_seed(seed),
            now: NOON,
            keys,
            rotations: 1,
            epoch: 1,
            roots,
            number: 0,
            versions: vec![],
            heads: vec![],
            forged: vec![],
            honest: vec![],
        }
    }

    fn root_number(&self) -> u64 {
        u64::try_from(self.roots.len()).unwrap()
    }

    fn publish(&mut self) {
        self.number += 1;
        let statement = agentd_protocol::control::statement::VersionStatement {
            created: Time::from_unix_secs(self.now),
            ..version(self.epoch, self.number)
        };
        let signed = sign_version(statement, &self.keys.version);
        self.honest.push(signed.digest);
        self.versions.push(signed);
        self.refresh();
    }

    fn refresh(&mut self) {
        let Some(newest) = self.versions.last().filter(|newest| newest.statement.epoch == self.epoch) else { return };
        let note = fresh(newest, self.root_number(), self.now, self.now + 5 * MINUTE);
        self.heads.push((newest.clone(), sign_fresh(&note, &self.keys.fresh)));
    }

    fn rotate(&mut self) {
        let before = self.keys.clone();
        self.rotations += 1;
        self.epoch += 1;
        self.number = 0;
        self.keys = Keys::numbered(self.rotations);
        let next = root(self.root_number() + 1, self.epoch, &self.keys);
        self.roots.push(sign_root(&next, &[&before.root, &self.keys.root]));
    }

    /// What the attacker makes with what was stolen.
    fn forge(&mut self, power: Power) {
        let (now, epoch, number) = (self.now, self.epoch, self.number);
        let stolen = match power {
            Power::Store => return,
            Power::FreshKey => {
                let pick = self.rng.usize(..self.versions.len().max(1));
                if let Some(old) = self.versions.get(pick).cloned() {
                    let note = fresh(&old, 1, now, now + 100_000 * MINUTE);
                    self.forged.push((old.clone(), sign_fresh(&note, &self.keys.fresh)));
                    let note = fresh(&old, 1, now + 1_000_000, now + 100_000 * MINUTE);
                    self.forged.push((old, sign_fresh(&note, &self.keys.fresh)));
                }
                self.keys.fresh.clone()
            }
            Power::VersionKey if self.rotations == 1 => self.keys.version.clone(),
            Power::VersionKey => return,
        };
        let step = [1, 5, 1_000_000, 1_000_000_000_000][self.rng.usize(..4)];
        let evil = sign_version(version(epoch, number + step), &stolen);
        let note = fresh(&evil, self.root_number(), now, now + 100_000 * MINUTE);
        let note = sign_fresh(&note, &self.keys.fresh);
        self.forged.push((evil, note));
    }

    fn served(&mut self) -> Option<Vec<u8>> {
        let all: Vec<&(Signed, Envelope)> = self.heads.iter().chain(&self.forged).collect();
        let newest = self.heads.last()?;
        let one = if self.rng.f32() < 0.7 { all[self.rng.usize(..all.len())] } else { newest };
        let other = if self.rng.f32() < 0.2 { all[self.rng.usize(..all.len())] } else { one };
        Some(head(&one.0, other.1.clone()))
    }

    fn roots_served(&mut self) -> Vec<Envelope> {
        let upto = if self.rng.f32() < 0.8 { self.roots.len() } else { self.rng.usize(1..=self.roots.len()) };
        let mut served: Vec<Envelope> = self.roots[1..upto].to_vec();
        if self.rng.f32() < 0.3 {
            let thief = Keys { root: "thief".into(), version: "thief".into(), fresh: "thief".into() };
            served.insert(0, sign_root(&root(2, 99, &thief), &["thief"]));
        }
        served
    }
}

fn run(seed: u64, power: Power) -> usize {
    let mut world = World::new(seed);
    let record = TrustRecord::begin(&stack(), &pin(&world.roots[0]), &world.roots).unwrap();
    let mut agent = Agent { record, log: vec![] };
    for step in 0..STEPS {
        world.now += world.rng.i64(1..40);
        if world.rng.f32() < 0.15 {
            world.publish();
        }
        if world.rng.f32() < 0.3 {
            world.refresh();
        }
        if world.rng.f32() < 0.1 {
            world.forge(power);
        }
        if world.rng.f32() < 0.01 || (power == Power::VersionKey && step == STEPS / 2) {
            world.rotate();
        }
        let (Some(head), roots) = (world.served(), world.roots_served()) else { continue };
        let behind = [0, 0, 0, 50, 1_000][world.rng.usize(..5)];
        let crash = [Crash::No, Crash::No, Crash::No, Crash::BeforePersist][world.rng.usize(..4)];
        // Refused or not is the attacker's affair here; what counts is what was applied.
        let _refused = agent.look(&roots, &head, at(world.now - behind), crash);
    }
    check(&agent, &world, power, seed);
    recover(agent, world, power, seed)
}

fn check(agent: &Agent, world: &World, power: Power, seed: u64) {
    let mut before = (0, 0);
    for applied in &agent.log {
        let this = (applied.epoch, applied.version);
        assert!(this > before, "{power:?}, seed {seed}: applied {this:?} after {before:?}");
        before = this;
        let is_honest = world.honest.contains(&applied.digest);
        // Who has the key for versions is believed until its root is replaced.
        let may_be_forged = power == Power::VersionKey && applied.epoch == 1;
        assert!(is_honest || may_be_forged, "{power:?}, seed {seed}: {this:?} was made up");
    }
}

/// The store is honest again; where the key for versions was stolen, by way of a new root.
fn recover(mut agent: Agent, mut world: World, power: Power, seed: u64) -> usize {
    if power == Power::VersionKey && world.rotations == 1 {
        world.rotate();
    }
    world.now += 5_000;
    world.publish();
    let (newest, note) = world.heads.last().cloned().unwrap();
    let looked = agent.look(&world.roots[1..], &head(&newest, note), at(world.now), Crash::No);
    assert_eq!(looked, Ok(()), "{power:?}, seed {seed}");
    assert_eq!(agent.log.last().map(|applied| applied.digest), Some(newest.digest), "{power:?}, seed {seed}");
    agent.log.len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_store_in_an_attackers_hands_only_withholds(seed in any::<u64>()) {
        let applied: usize = [Power::Store, Power::FreshKey, Power::VersionKey].map(|power| run(seed, power)).iter().sum();
        prop_assert!(applied >= 3, "the model did nothing");
    }
}
