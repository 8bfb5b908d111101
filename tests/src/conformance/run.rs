//! Runs sequences. Each makes its own stack, so that none sees what another does.

use std::path::PathBuf;
use std::time::Duration;

use agentd_protocol::control::join::JoinString;
use agentd_protocol::control::problem::{self, Problem};
use agentd_protocol::control::time::Time;
use agentd_protocol::digest::Digest;
use anyhow::{Context, Result, bail};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, Stream, StreamExt};
use reqwest::Client;
use serde_json::{Value, json};

use super::exchange::{self, Answer, Keys, Request, unix_secs};
use super::fill::{self, Values};
use super::matching;
use super::operator::{Done, Operator};
use super::trust::{Believed, Pin};
use super::vector::{Exchange, Expect, Order, Step, Vector, given};

/// A request that is to be held has no answer for so long.
const HELD_FOR: Duration = Duration::from_secs(1);
/// Longest `Retry-After` that is waited for, where 429 is not what was expected.
const RETRY_S_MAX: u64 = 70;
const RETRIES_MAX: u32 = 5;
const AT_ONCE: usize = 6;
/// Keys that vectors may ask to be enrolled.
const HOST_KEYS: [&str; 2] = ["host", "other"];

#[derive(Debug)]
pub struct Plan {
    pub base_url: String,
    pub operator: Operator,
    pub client: Client,
    /// The folder of the vectors.
    pub dir: PathBuf,
    /// Makes keys and names unlike those of other runs against the same server.
    pub run: String,
}

#[derive(Debug)]
pub enum Outcome {
    Passed,
    /// The server has not a capability that it may do without.
    Skipped(String),
    Failed(anyhow::Error),
}

/// Ends a sequence whose operator cannot do what it needs.
#[derive(Debug, thiserror::Error)]
#[error("the hook cannot do `{0}`")]
struct Unsupported(String);

/// Runs them a few at a time, since much of their time is waiting; the outcomes as they come.
pub fn run_all<'a>(plan: &'a Plan, vectors: &'a [Vector]) -> impl Stream<Item = (&'a Vector, Outcome)> {
    let each = vectors.iter().map(move |vector| async move { (vector, run(plan, vector).await) });
    stream::iter(each).buffer_unordered(AT_ONCE)
}

async fn run(plan: &Plan, vector: &Vector) -> Outcome {
    let mut sequence = Sequence::new(plan, &vector.name);
    match sequence.whole(vector).await {
        Ok(()) => Outcome::Passed,
        Err(error) => match (&vector.optional, error.downcast_ref::<Unsupported>()) {
            (Some(capability), Some(_)) => Outcome::Skipped(capability.clone()),
            (Some(capability), None) if capability == "hold" && sequence.holds == Some(false) => {
                Outcome::Skipped(capability.clone())
            }
            _ => Outcome::Failed(error),
        },
    }
}

#[derive(Debug)]
struct Sequence<'a> {
    plan: &'a Plan,
    values: Values,
    keys: Keys,
    believed: Believed,
    /// Whether the server says that it holds reports; known from the first answer that does.
    holds: Option<bool>,
}

impl<'a> Sequence<'a> {
    fn new(plan: &'a Plan, name: &str) -> Self {
        let run = format!("{}/{name}", plan.run);
        let machine = Digest::of(run.as_bytes()).to_string();
        let other_machine = Digest::of(machine.as_bytes()).to_string();
        let mut values = Values::from([
            ("name".to_owned(), json!(format!("conformance-{}-{name}", plan.run))),
            ("machine".to_owned(), json!(machine)),
            ("other_machine".to_owned(), json!(other_machine)),
        ]);
        for stream in ["stream", "other_stream"] {
            let text = Digest::of(format!("{run}/{stream}").as_bytes()).to_string();
            values.insert(stream.to_owned(), json!(text[..32]));
        }
        let keys = Keys::of(run);
        for name in HOST_KEYS {
            values.insert(format!("public:{name}"), json!(keys.get(name).public().to_string()));
        }
        Self { plan, values, keys, believed: Believed::default(), holds: None }
    }

    async fn whole(&mut self, vector: &Vector) -> Result<()> {
        for name in &vector.given {
            let given = given(&self.plan.dir, name)?;
            self.steps(&given.steps).await.with_context(|| format!("given {name}"))?;
        }
        self.steps(&vector.steps).await
    }

    fn steps<'b>(&'b mut self, steps: &'b [Step]) -> BoxFuture<'b, Result<()>> {
        async move {
            for (index, step) in steps.iter().enumerate() {
                self.step(step).await.with_context(|| format!("step {}", index + 1))?;
            }
            Ok(())
        }
        .boxed()
    }

    async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Operator(order) => self.order(order).await,
            Step::Exchange(exchange) => self.exchange(exchange).await,
            Step::PauseS(seconds) => {
                tokio::time::sleep(Duration::from_secs(*seconds)).await; // poll: the vector's own, for what ends by time
                Ok(())
            }
        }
    }

    async fn order(&mut self, order: &Order) -> Result<()> {
        let input = fill::tree(&order.input, &self.values, &self.plan.dir)?;
        let answer = match self.plan.operator.ask(&order.verb, &input).await? {
            Done::Answer(answer) => answer,
            Done::Unsupported => return Err(Unsupported(order.verb.clone()).into()),
        };
        let text = |key: &str| {
            let found = answer.get(key).and_then(Value::as_str);
            found.with_context(|| format!("the hook's answer to {} has no `{key}`: {answer}", order.verb))
        };
        match (order.verb.as_str(), &order.name) {
            ("stack", Some(name)) => {
                self.values.insert(name.clone(), json!(text("stack")?));
            }
            ("token", Some(name)) => {
                let join = JoinString::read(text("join")?)?;
                self.values.insert(name.clone(), json!(join.token.as_str()));
                self.believed.pins.insert(name.clone(), Pin { stack: join.stack, root: join.root });
                self.keys.learn(name, join.key);
            }
            _ => {}
        }
        Ok(())
    }

    fn request(&mut self, exchange: &Exchange) -> Result<Request> {
        let now = serde_json::to_value(Time::from_unix_secs(unix_secs()))?;
        self.values.insert("now".to_owned(), now);
        self.values.insert("now_ms".to_owned(), json!(unix_secs() * 1000));
        let snapshot = fill::tree(&json!({"$file": "bodies/snapshot.json"}), &self.values, &self.plan.dir)?;
        let digest = Digest::of(&serde_json::to_vec(&snapshot)?).to_string();
        self.values.insert("snapshot_digest".to_owned(), json!(digest));
        let Plan { base_url, dir, .. } = self.plan;
        let request = exchange::build(&exchange.send, base_url, &self.values, &self.keys, dir)?;
        if [200, 201, 202].iter().any(|status| exchange.expect.status.has(status)) {
            exchange::check_body(&request)?;
        }
        Ok(request)
    }

    async fn exchange(&mut self, exchange: &Exchange) -> Result<()> {
        let mut tries = 0;
        let answer = loop {
            let request = self.request(exchange)?;
            let answer = self.answer(exchange, &request).await?;
            let retry_s = answer.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
            match retry_s.filter(|_| answer.status == 429 && !exchange.expect.status.has(&429)) {
                Some(seconds) if seconds <= RETRY_S_MAX && tries < RETRIES_MAX => {
                    tries += 1;
                    // poll: the server said when it answers again
                    tokio::time::sleep(Duration::from_secs(seconds)).await; // poll: as above
                }
                _ => break answer,
            }
        };
        let shown = format!("answer {} {:.300}", answer.status, String::from_utf8_lossy(&answer.body));
        self.judge(&exchange.expect, &answer).context(shown)
    }

    async fn answer(&mut self, exchange: &Exchange, request: &Request) -> Result<Answer> {
        let client = self.plan.client.clone();
        let mut asked = Box::pin(exchange::send(&client, request));
        if !exchange.meanwhile.is_empty() {
            tokio::select! {
                early = &mut asked => {
                    let early = early?;
                    bail!("answered {} before there was news: {}", early.status, String::from_utf8_lossy(&early.body));
                }
                () = tokio::time::sleep(HELD_FOR) => {} // poll: nothing may come in this time
            }
            self.steps(&exchange.meanwhile).await.context("meanwhile")?;
        }
        match exchange.answered_within_s {
            Some(seconds) => tokio::time::timeout(Duration::from_secs(seconds), asked)
                .await
                .with_context(|| format!("no answer within {seconds} s"))?,
            None => asked.await,
        }
    }

    fn judge(&mut self, expect: &Expect, answer: &Answer) -> Result<()> {
        if !expect.status.has(&answer.status) {
            bail!("status {:?} was expected", expect.status);
        }
        if let Some(slugs) = &expect.problem {
            let media = answer.header("content-type").unwrap_or_default();
            if !media.starts_with(problem::MEDIA_TYPE) {
                bail!("a problem is {}, not `{media}`", problem::MEDIA_TYPE);
            }
            let found: Problem = serde_json::from_value(answer.json()?).context("no problem of RFC 9457")?;
            let word = found.slug().map(|slug| slug.word().to_owned()).unwrap_or_default();
            if !slugs.has(&word) || found.status != answer.status {
                bail!("problem {slugs:?} was expected");
            }
        }
        for (name, pattern) in &expect.headers {
            let pattern = fill::text(pattern, &self.values)?;
            let found = answer.header(name).with_context(|| format!("header {name} is missing"))?;
            matching::same(&pattern, &json!(found), name)?;
        }
        if let Some(template) = &expect.body {
            let expected = fill::tree(template, &self.values, &self.plan.dir)?;
            matching::same(&expected, &answer.json()?, "")?;
        }
        for (name, place) in &expect.keep {
            let value = match place.strip_prefix("header:") {
                Some(header) => json!(answer.header(header).with_context(|| format!("header {header} is missing"))?),
                None => answer.json()?.pointer(place).with_context(|| format!("{place} is missing"))?.clone(),
            };
            self.values.insert(name.clone(), value);
        }
        self.note_hold(answer);
        match &expect.verify {
            Some(what) => {
                let now = Time::from_unix_secs(unix_secs());
                self.believed.verify(what, &answer.body, now, &mut self.values)
            }
            None => Ok(()),
        }
    }

    fn note_hold(&mut self, answer: &Answer) {
        let Ok(body) = answer.json() else { return };
        let hold_s = ["/report/hold_s", "/next/hold_s"].iter().find_map(|place| body.pointer(place)?.as_u64());
        self.holds = hold_s.map(|seconds| seconds > 0).or(self.holds);
    }
}
