//! Refs that are asked for once, for a person: nothing is remembered and nothing published.

use std::collections::BTreeMap;

use agentd_protocol::api::{RefAnswer, RefAnswers, RefQuestions};
use futures_util::StreamExt;

use super::Resolve;
use super::file::{RESOLVES_MAX, resolve};
use super::questions::Question;

/// One answer for each question, in their order. The same question is asked once, each has the publisher's deadline.
pub async fn resolve_all(resolver: &dyn Resolve, asked: RefQuestions) -> RefAnswers {
    let questions: Vec<Question> = asked
        .questions
        .into_iter()
        .map(|asked| Question { repo: asked.repo, auth: asked.git_auth, reference: asked.reference })
        .collect();
    let mut distinct = questions.clone();
    distinct.sort();
    distinct.dedup();
    let asking = distinct.into_iter().map(|question| async move {
        let answer = match resolve(resolver, &question).await {
            Ok(commit) => RefAnswer::Commit(commit),
            Err(unresolved) => RefAnswer::Unresolved(unresolved.to_string()),
        };
        (question, answer)
    });
    let answers: BTreeMap<Question, RefAnswer> =
        futures_util::stream::iter(asking).buffer_unordered(RESOLVES_MAX).collect().await;
    RefAnswers { answers: questions.iter().map(|question| answers[question].clone()).collect() }
}
