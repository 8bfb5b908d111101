//! `agentctl lock FILE`: branches and tags of a stack file become the commits they point at now.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use agentd_document::Format;
use agentd_protocol::api::{RefAnswer, RefAnswers, RefQuestion, RefQuestions};
use agentd_protocol::exit_code::Exit;
use agentd_protocol::ids::{Commit, ServiceName};
use agentd_protocol::stack::{Revision, Stack};
use agentd_sys::files::{Durability, write_atomic};
use anyhow::Context as _;

use crate::check::{self, text_of};
use crate::client::{Client, Error};
use crate::out::Out;
use crate::words::many;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  agentctl lock stack.toml > locked.toml
  agentctl lock stack.toml --write

Each `ref = \"main\"` becomes `commit = \"<40 hex>\"`; comments, order and layout stay byte for byte, in TOML as in JSON. \
Entries that have a commit stay as they are. What was resolved is told on stderr. The repositories are asked by the \
agentd of the home, which has the credentials and the host keys: so one must run, but it need not know this file. \
If one ref cannot be resolved nothing is written.

Exit codes: 0, 1 a ref cannot be resolved or the file cannot be written, 3 the file does not validate, 4 no agentd \
answers")]
pub(crate) struct Args {
    /// Stack file, TOML, or JSON when its name ends in .json
    file: PathBuf,
    /// Replace the file as a whole instead of printing it
    #[arg(long)]
    write: bool,
}

pub(crate) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let Some(stack) = check::stack(&args.file, out) else { return Ok(Exit::Invalid) };
    let asked = questions(&stack);
    let answers = if asked.is_empty() {
        Vec::new()
    } else {
        let questions = asked.iter().map(|(_, question)| question.clone()).collect();
        let RefAnswers { answers } = client.post_body("/v1/refs", &RefQuestions { questions }).await?;
        answers
    };
    let Some(commits) = commits(asked, answers, out) else { return Ok(Exit::Failed) };
    Ok(match finish(args, &stack, &commits, out) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            out.complain(format_args!("agentctl: {error:#}"));
            Exit::Failed
        }
    })
}

fn questions(stack: &Stack) -> Vec<(ServiceName, RefQuestion)> {
    let question = |entry: &agentd_protocol::stack::Service| match &entry.source {
        Revision::Commit(_) => None,
        Revision::Ref(reference) => Some((
            entry.name.clone(),
            RefQuestion { repo: entry.repo.clone(), git_auth: entry.git_auth.clone(), reference: reference.clone() },
        )),
    };
    stack.service.iter().filter_map(question).collect()
}

/// Says what each ref is; `None` when one of them is nothing.
fn commits(
    asked: Vec<(ServiceName, RefQuestion)>,
    answers: Vec<RefAnswer>,
    out: &mut Out,
) -> Option<BTreeMap<ServiceName, Commit>> {
    let count = asked.len();
    let mut commits = BTreeMap::new();
    for ((name, question), answer) in asked.into_iter().zip(answers) {
        match answer {
            RefAnswer::Commit(commit) => {
                out.complain(format_args!("{name}: {} is {commit}", question.reference));
                commits.insert(name, commit);
            }
            RefAnswer::Unresolved(why) => out.complain(format_args!("{name}: {}: {why}", question.reference)),
        }
    }
    if commits.len() < count {
        out.complain("agentctl: nothing is written: every ref must be resolved");
        return None;
    }
    Some(commits)
}

fn finish(args: &Args, stack: &Stack, commits: &BTreeMap<ServiceName, Commit>, out: &mut Out) -> anyhow::Result<()> {
    let shown = args.file.display();
    let text = text_of(&args.file)?;
    let locked = agentd_document::lock(&text, Format::of(&args.file), stack, commits)
        .with_context(|| format!("{shown} has changed meanwhile; run it again"))?;
    if !args.write {
        out.text(locked);
        return Ok(());
    }
    if commits.is_empty() {
        out.complain(format_args!("{shown}: nothing to lock, every service has a commit"));
        return Ok(());
    }
    replace(&args.file, &locked).with_context(|| format!("cannot write {shown}"))?;
    out.complain(format_args!("{shown}: {} locked", many(commits.len(), "service")));
    Ok(())
}

/// Through a symbolic link to what it names; mode and owner stay.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let path = path.canonicalize()?;
    let was = path.metadata()?;
    write_atomic(&path, text.as_bytes(), was.permissions().mode() & 0o7777, Durability::PowerCut)?;
    let now = path.metadata()?;
    if (was.uid(), was.gid()) != (now.uid(), now.gid()) {
        chown(&path, Some(was.uid()), Some(was.gid())).context("its owner has changed to the caller")?;
    }
    Ok(())
}
