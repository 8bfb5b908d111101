//! What publishing the draft now would do, branches and tags included: asked as publishing asks, but bounded in time, and
//! what cannot be found out is said and no failure.

use std::collections::BTreeMap;
use std::time::Duration;

use agentd_protocol::control::ids::StackId;
use agentd_protocol::ids::{Commit, ServiceName};
use agentd_protocol::stack::{Revision, Stack};
use tokio::time::timeout;

use super::drafts::{refs_of, settle};
use super::{Control, Error, diff};
use crate::model::{Follows, PointsAt, Preview};

/// For all repositories together, which are asked at once: somebody waits for a page.
const DEADLINE: Duration = Duration::from_secs(4);

/// Repository and branch or tag.
type Question = (String, String);

impl Control {
    /// `None`: there is no draft. Fails where the draft has problems.
    pub async fn preview(&self, stack: &StackId) -> Result<Option<Preview>, Error> {
        let newest = self.stored_stack(stack)?.last_version;
        let Some(draft) = self.inner.store.draft(stack).await? else { return Ok(None) };
        let mut content = self.open_draft(stack, &draft)?;
        let answers = self.points_at(&content).await;
        let published = self.open_version(stack, newest).await?;
        let commits: BTreeMap<ServiceName, Commit> = published
            .iter()
            .flat_map(|(version, _)| &version.services)
            .map(|service| (service.name.clone(), service.commit.clone()))
            .collect();
        let mut follows = Vec::new();
        for service in &mut content.service {
            let Revision::Ref(reference) = &service.source else { continue };
            let reference = reference.clone();
            let now = answers[&(service.repo.clone(), reference.clone())].clone();
            if let PointsAt::Commit { commit } = &now {
                service.source = Revision::Commit(commit.clone());
            }
            let (published, repo) = (commits.get(&service.name).cloned(), service.repo.clone());
            follows.push(Follows { service: service.name.clone(), repo, reference, published, now });
        }
        if let Some((version, _)) = &published {
            settle(Some(&mut content), &refs_of(version));
        }
        let diff = diff::diff(published.as_ref().map(|(_, content)| content), Some(&content));
        Ok(Some(Preview { follows, diff }))
    }

    async fn points_at(&self, stack: &Stack) -> BTreeMap<Question, PointsAt> {
        let mut questions: Vec<Question> = Vec::new();
        for service in &stack.service {
            if let Revision::Ref(reference) = &service.source {
                questions.push((service.repo.clone(), reference.clone()));
            }
        }
        questions.sort();
        questions.dedup();
        let asked = questions.into_iter().map(|(repo, reference)| async move {
            let now = match timeout(DEADLINE, self.ask(&repo, &reference)).await {
                Ok(Ok(commit)) => PointsAt::Commit { commit },
                Ok(Err(error)) => PointsAt::Unknown { why: agentd_sys::causes::chain(&error) },
                Err(_) => PointsAt::Unknown { why: format!("no answer within {} s", DEADLINE.as_secs()) },
            };
            ((repo, reference), now)
        });
        futures_util::future::join_all(asked).await.into_iter().collect()
    }
}
