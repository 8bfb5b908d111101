//! What people order, and what the document gets by itself: the same trial, confirmed by them or by green checks.

use std::collections::BTreeSet;
use std::time::Duration;

use agentd_protocol::api::{
    Check, NETWORKS_MAX, OPEN_MAX_MS, Origin, SecurityConfirm, SecurityDone, SecurityOpen, SecurityOrder, SecurityPlan,
    SshSession, WINDOW_DEFAULT_MS, WINDOW_MAX_MS, WINDOW_MIN_MS, What,
};
use agentd_protocol::security::Mode;
use agentd_sys::causes::chain;
use agentd_sys::listeners::{Transport, listener_name, listening};

use super::checks::{self, Before};
use super::consent::{self, Objections};
use super::files::{Moment, Pending};
use super::foreign::{self, Published, Severity};
use super::guard::{self, Peer};
use super::handle::Order;
use super::scales::Scales;
use super::task::{State, Task};
use super::transaction::{Error as Transaction, Reverted, Transactions, Wish};
use super::truth::trial_status;
use super::wishes::policy_of;
use super::{Error, Policy};

/// Of a trial that checks confirm: the checks' own limits, twice.
const DOCUMENT_WINDOW: Duration = Duration::from_secs(60);

/// An order against the host as it is.
struct Weighed {
    now: Policy,
    /// What was confirmed can be read.
    is_known: bool,
    wish: Wish,
    peers: Vec<Peer>,
    sessions: Vec<SshSession>,
    verdict: foreign::Verdict,
    objections: Objections,
    published: BTreeSet<Published>,
}

impl Task {
    pub(super) async fn carry_out(&mut self, order: Order) {
        // Whoever asked may have gone away: the answer is then nobody's.
        match order {
            Order::Apply { order, reply } => drop(reply.send(self.apply(&order).await)),
            Order::Confirm { confirm, caller, reply } => drop(reply.send(self.confirm(&confirm, caller).await)),
            Order::Revert { reply } => drop(reply.send(self.revert_by_hand().await)),
            Order::Open { open, reply } => drop(reply.send(self.open(open).await)),
        }
    }
}

impl Scales {
    async fn weigh(&self, order: &SecurityOrder) -> Result<Weighed, Error> {
        let asked = order.ssh.as_deref().unwrap_or_default();
        if asked.len() > NETWORKS_MAX {
            return Err(Error::TooManyNetworks(asked.len()));
        }
        let (now, is_known, facts) = self
            .blocking(|core| Ok::<_, Transaction>((core.policy()?, core.is_known(), core.facts(&Moment::now())?)))
            .await?;
        let document = self.document();
        let security = document.as_ref().and_then(|document| document.security.clone());
        let mode = order.mode.or(security.as_ref().map(|security| security.mode)).unwrap_or(now.mode);
        let ssh = match (&order.ssh, &security) {
            (Some(ssh), _) => ssh.clone(),
            (None, Some(security)) if security.mode == mode => security.ssh.clone(),
            (None, _) => now.ssh.clone(),
        };
        let port = document.map_or(self.targets.proxy.port(), |document| document.proxy_port);
        let to = policy_of(mode, &ssh, port, &self.owner);
        let survey = self.survey(facts).await?;
        let comes_back = |peer: &Peer| {
            let alone = guard::judge(std::slice::from_ref(peer), &to, &survey.facts);
            !matches!(alone, guard::Verdict::WouldEnd { .. })
        };
        let session = |peer: &Peer| SshSession { peer: peer.address, port: peer.port, comes_back: comes_back(peer) };
        let sessions = survey.peers.iter().map(session).collect();
        let (verdict, objections) = (survey.verdict(&to), survey.objections(&to));
        let wish = Wish { to, by: Origin::Local, document: security };
        let (peers, published) = (survey.peers, survey.seen.published);
        Ok(Weighed { now, is_known, wish, peers, sessions, verdict, objections, published })
    }

    pub(super) async fn plan(&self, order: &SecurityOrder) -> Result<SecurityPlan, Error> {
        let weighed = self.weigh(order).await?;
        let before = Before { ssh: weighed.peers.iter().map(|peer| (peer.address, peer.port)).collect() };
        let (checks, to) = (self.checked(&before).await, weighed.wish.to.clone());
        let mut notes = Vec::new();
        let is_in_force = weighed.is_known && to == weighed.now;
        if to.mode != Mode::Open && !is_in_force {
            let window = Duration::from_millis(WINDOW_DEFAULT_MS);
            let policy = to.clone();
            if let Err(error) = self.blocking(move |core| core.check(&policy, window)).await {
                notes.push(chain(&error));
            }
        }
        if is_in_force {
            notes.push("that is in force already".to_owned());
        }
        if !weighed.is_known {
            notes.push("what was confirmed cannot be read: until a mode is, everything is shut but SSH".to_owned());
        }
        Ok(SecurityPlan {
            now: weighed.now.mode,
            wanted: to.mode,
            wanted_ssh: to.ssh_networks(),
            tools: tools(&weighed.verdict),
            enforcement: match to.mode {
                Mode::Open => "none: our table is removed".to_owned(),
                Mode::DaemonPort | Mode::Tunnel => enforcement(&weighed.verdict),
            },
            asks: weighed.objections.asked.iter().map(consent::said).collect(),
            refuses: weighed.objections.refused.iter().map(consent::said).collect(),
            closes: self.blocking(move |core| closes(&to, &core.host().ssh_ports, &weighed.published)).await,
            ssh: weighed.sessions,
            phrase: weighed.objections.phrase().map(str::to_owned),
            checks,
            notes,
        })
    }
}

impl Task {
    async fn apply(&mut self, order: &SecurityOrder) -> Result<SecurityDone, Error> {
        let window = order.window_ms.unwrap_or(WINDOW_DEFAULT_MS);
        if !(WINDOW_MIN_MS..=WINDOW_MAX_MS).contains(&window) {
            return Err(Error::Window);
        }
        let (scales, asked) = (self.scales.clone(), order.clone());
        let weighed = self.meanwhile(async move { scales.weigh(&asked).await }).await?;
        if weighed.is_known && weighed.now == weighed.wish.to && self.trial().is_none() {
            let message = format!("{} is in force already", weighed.now.mode);
            return Ok(SecurityDone { message, trial: None, checks: Vec::new() });
        }
        let mode = weighed.wish.to.mode;
        if let Err(error) = agreed(&weighed.objections, order) {
            (self.note)(What::SecurityRefused { mode, cause: error.to_string() });
            return Err(error);
        }
        let phrase = weighed.objections.phrase().map(str::to_owned);
        let overruled: Vec<String> =
            weighed.objections.refused.iter().chain(&weighed.objections.asked).map(|one| one.text.clone()).collect();
        let window = Duration::from_millis(window);
        let (pending, checks) = self.try_out(weighed.wish, phrase, window, &order.without_checks).await?;
        if !overruled.is_empty() {
            (self.note)(What::SecurityOverruled { mode, findings: overruled });
        }
        let status = trial_status(&pending, &Moment::now());
        let message = format!(
            "{} is on trial for {} s; `agentctl security confirm` from a NEW connection keeps it, otherwise {} comes back",
            status.to,
            status.left_ms.div_ceil(1_000),
            status.from
        );
        Ok(SecurityDone { message, trial: Some(status), checks })
    }

    /// Checks, trial, checks: afterwards it runs, or nothing has changed.
    async fn try_out(
        &mut self,
        wish: Wish,
        consent: Option<String>,
        window: Duration,
        without: &[agentd_protocol::api::CheckName],
    ) -> Result<(Pending, Vec<Check>), Error> {
        let scales = self.scales.clone();
        let (before, checks) = self
            .meanwhile(async move {
                let before = Before { ssh: scales.on_ssh().await };
                let checks = scales.checked(&before).await;
                (before, checks)
            })
            .await;
        let red = checks::red(&checks, without);
        if !red.is_empty() && checks::is_cut_off(&checks) {
            let without: Vec<String> = red.iter().map(|check| format!("--without-check {}", check.name)).collect();
            return Err(Error::NoConnectivity { red: checks::in_words(&red), without: without.join(" ") });
        }
        if !red.is_empty() {
            return Err(Error::RedBefore { red: checks::in_words(&red), name: red[0].name });
        }
        let pending = self.blocking(move |core| core.begin(&wish, consent, window)).await?;
        let (from, to) = (pending.from.mode, pending.to.mode);
        (self.note)(What::SecurityTrial { from, to, window_ms: pending.window_ms });
        self.state = State::Trial(Box::new(pending.clone()));
        self.look().await;
        let scales = self.scales.clone();
        let checks = self.meanwhile(async move { scales.checked(&before).await }).await;
        if self.trial().is_none_or(|trial| trial.tx != pending.tx) {
            return Err(Transaction::NoTrial.into());
        }
        let red = checks::red(&checks, without);
        if !red.is_empty() {
            let red = checks::in_words(&red);
            self.revert(format!("a check that was green before is red: {red}")).await?;
            return Err(Error::RedAfter { red });
        }
        Ok((pending, checks))
    }

    /// What the document asks for: nobody is there to confirm, so the checks do.
    pub(super) async fn try_by_itself(&mut self, wish: Wish) -> Result<(), Error> {
        let (pending, _) = self.try_out(wish, None, DOCUMENT_WINDOW, &[]).await?;
        // Somebody may have logged in since it was decided.
        let (scales, to) = (self.scales.clone(), pending.to.clone());
        match self.meanwhile(async move { scales.objects(to).await }).await {
            Ok(None) => {}
            objected => {
                let cause = objected.map_or_else(|error| chain(&error), Option::unwrap_or_default);
                self.revert(cause).await?;
                // Decided anew, as the host is now.
                self.considered = None;
                return Ok(());
            }
        }
        let tx = pending.tx;
        self.blocking(move |core| core.confirm(&tx)).await?;
        let (from, to) = (pending.from.mode, pending.to.mode);
        self.settle(format!("{to} in place of {from}, as the document and policy.toml ask"));
        (self.note)(What::SecurityApplied { from, to });
        Ok(())
    }

    async fn confirm(&mut self, confirm: &SecurityConfirm, caller: Option<u32>) -> Result<SecurityDone, Error> {
        let pending = self.blocking(|core| core.files().pending()).await.map_err(Transaction::from)?;
        let Some(pending) = pending.filter(|pending| confirm.tx.as_ref().is_none_or(|tx| *tx == pending.tx)) else {
            return Err(Transaction::NoTrial.into());
        };
        if let Some(session) = caller.and_then(consent::session_of)
            && consent::is_among(&session, &pending.sessions)
            && pending.consent.is_none()
        {
            return Err(Error::OldSession { peer: session.peer });
        }
        let tx = pending.tx.clone();
        let active = self.blocking(move |core| core.confirm(&tx)).await;
        let (from, to) = (pending.from.mode, pending.to.mode);
        match active {
            Ok(_) => {}
            Err(error) => {
                self.look().await;
                return Err(error.into());
            }
        }
        self.settle(format!("{to} in place of {from}, confirmed"));
        (self.note)(What::SecurityConfirmed { from, to });
        self.reconsider(Some(&pending));
        self.look().await;
        Ok(SecurityDone { message: format!("{to} is in force for good"), trial: None, checks: Vec::new() })
    }

    pub(super) fn settle(&mut self, last: String) {
        self.state = State::Settled;
        self.say(last);
    }

    async fn revert_by_hand(&mut self) -> Result<SecurityDone, Error> {
        let trial = self.trial().cloned();
        let mode = self.revert("the operator asked".to_owned()).await?;
        self.reconsider(trial.as_ref());
        let message = format!("the rules of before are back: {mode}");
        Ok(SecurityDone { message, trial: None, checks: Vec::new() })
    }

    /// The mode that is back.
    pub(super) async fn revert(&mut self, cause: String) -> Result<Mode, Error> {
        let ended = self.blocking(|core| {
            if core.end_illegible_trial()? {
                return Ok(None);
            }
            let pending = core.files().pending()?.ok_or(Transaction::NoTrial)?;
            let reverted = core.revert(Some(&pending.tx))?;
            Ok::<_, Transaction>(Some((pending, reverted)))
        });
        let Some((pending, reverted)) = ended.await? else {
            self.settle("a trial whose record could not be read was ended".to_owned());
            self.publish_again().await;
            return Ok(self.blocking(Transactions::policy).await?.mode);
        };
        let (from, to) = (pending.from.mode, pending.to.mode);
        match reverted {
            Reverted::Done => {
                self.settle(format!("{to} went back to {from}: {cause}"));
                (self.note)(What::SecurityReverted { from, to, cause });
            }
            Reverted::WasConfirmed | Reverted::Nothing => self.state = State::Settled,
        }
        self.publish_again().await;
        Ok(if reverted == Reverted::WasConfirmed { to } else { from })
    }

    async fn open(&mut self, open: SecurityOpen) -> Result<String, Error> {
        if open.ssh.is_empty() || open.ssh.len() > NETWORKS_MAX {
            return Err(Error::TooManyNetworks(open.ssh.len()));
        }
        if open.for_ms == 0 || open.for_ms > OPEN_MAX_MS {
            return Err(Error::OpenTime);
        }
        let (networks, time) = (open.ssh.clone(), Duration::from_millis(open.for_ms));
        self.blocking(move |core| core.open_ssh(networks, time)).await?;
        let names: Vec<String> = open.ssh.iter().map(ToString::to_string).collect();
        let message =
            format!("SSH is let in from {} for {} s; the kernel ends it", names.join(", "), open.for_ms / 1_000);
        (self.note)(What::SecurityOpened { networks: names, for_ms: open.for_ms });
        self.look().await;
        Ok(message)
    }
}

/// Whether a person said the word that sets each objection aside.
fn agreed(objections: &Objections, order: &SecurityOrder) -> Result<(), Error> {
    let findings = |all: &[foreign::Finding]| all.iter().map(consent::said).collect::<Vec<_>>().join("; ");
    if !objections.refused.is_empty() && !order.force {
        return Err(Error::Refused { findings: findings(&objections.refused) });
    }
    if !objections.asked.is_empty() && !order.accept {
        return Err(Error::NotAccepted { findings: findings(&objections.asked) });
    }
    match &objections.stranded {
        Some(stranded) if order.phrase.as_ref() != Some(&stranded.phrase) => {
            let ssh: String = stranded.propose.iter().map(|network| format!(" --ssh {network}")).collect();
            let ssh = if ssh.is_empty() { ssh } else { format!("let them in with{ssh}, or ") };
            Err(Error::Stranded { who: stranded.in_words(), ssh, phrase: stranded.phrase.clone() })
        }
        Some(_) | None => Ok(()),
    }
}

fn enforcement(verdict: &foreign::Verdict) -> String {
    let reason = if verdict.reason.is_empty() { String::new() } else { format!(": {}", verdict.reason) };
    format!("{}{reason}", verdict.enforcement)
}

/// What nobody has to decide about.
fn tools(verdict: &foreign::Verdict) -> Vec<String> {
    let known = |finding: &&foreign::Finding| matches!(finding.severity, Severity::CannotVouch | Severity::Note);
    let shown = |finding: &foreign::Finding| format!("{}: {}", finding.severity, consent::said(finding));
    verdict.findings.iter().filter(known).map(shown).collect()
}

/// What outside can reach now and could not under `to`: sockets of this host, and ports that lead to its guests (D3).
fn closes(to: &Policy, ssh_ports: &BTreeSet<u16>, published: &BTreeSet<Published>) -> Vec<String> {
    if to.mode == Mode::Open {
        return Vec::new();
    }
    let of = |transport| {
        let outside =
            listening(transport).into_iter().filter(|socket| !socket.address.ip().to_canonical().is_loopback());
        outside.map(|socket| socket.address.port()).collect::<BTreeSet<u16>>()
    };
    let of_host = |port: u16, transport, word: &str| {
        let who = listener_name(port, transport).map(|name| format!(", {name}")).unwrap_or_default();
        format!("{port}/{word}{who}")
    };
    let tcp = of(Transport::Tcp).into_iter().filter(|port| !to.proxy_tcp.contains(port)).map(|port| {
        let shut = of_host(port, Transport::Tcp, "tcp");
        if ssh_ports.contains(&port) { format!("{shut}{}", but_ssh(to)) } else { shut }
    });
    let udp = of(Transport::Udp).into_iter().map(|port| of_host(port, Transport::Udp, "udp"));
    let guests = published.iter().map(|one| format!("{}/{}, which leads to a guest (DNAT)", one.port, one.protocol));
    tcp.chain(udp).chain(guests).collect()
}

/// Whom SSH stays open for.
fn but_ssh(to: &Policy) -> String {
    let ssh = to.ssh_networks();
    let networks = ssh.iter().filter(|_| to.mode == Mode::DaemonPort).map(ToString::to_string);
    let interfaces = to.ssh_interfaces.iter().map(|name| format!("interface {name}"));
    let kept: Vec<String> = networks.chain(interfaces).collect();
    if kept.is_empty() { String::new() } else { format!(", but for {}", kept.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shut_is_named_with_whom_it_stays_open_for() {
        let socket = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let guest = Published { port: 8_080, protocol: "tcp" };
        let ssh = vec!["203.0.113.0/24".parse().unwrap()];
        let to = Policy { mode: Mode::DaemonPort, ssh, ..Policy::open() };
        let named = |to: &Policy, ssh_ports: &[u16]| {
            let all = closes(to, &ssh_ports.iter().copied().collect(), &[guest].into());
            assert!(all.contains(&"8080/tcp, which leads to a guest (DNAT)".to_owned()), "{all:?}");
            all.into_iter().find(|line| line.starts_with(&format!("{port}/tcp"))).unwrap()
        };
        assert!(named(&to, &[port]).ends_with(", but for 203.0.113.0/24"));
        assert!(!named(&to, &[22]).contains("but for"));
        let tunnel = Policy { mode: Mode::Tunnel, ssh_interfaces: ["wg0".to_owned()].into(), ..to };
        assert!(named(&tunnel, &[port]).ends_with(", but for interface wg0"));
    }
}
