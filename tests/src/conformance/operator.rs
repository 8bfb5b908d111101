//! The operator's hook: a program that is called with a verb, reads JSON and answers JSON.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The hook's exit code for a verb that the server cannot do.
const UNSUPPORTED: i32 = 3;

#[derive(Debug, Clone)]
pub struct Operator {
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Done {
    Answer(Value),
    Unsupported,
}

impl Operator {
    pub(super) async fn ask(&self, verb: &str, input: &Value) -> Result<Done> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(verb);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("stdin is piped")?;
        stdin.write_all(input.to_string().as_bytes()).await.context("hand the hook its input")?;
        drop(stdin);
        let output = child.wait_with_output().await.context("wait for the hook")?;
        match output.status.code() {
            Some(0) => {
                let answer = serde_json::from_slice(&output.stdout);
                answer.with_context(|| format!("{verb}: {}", String::from_utf8_lossy(&output.stdout))).map(Done::Answer)
            }
            Some(UNSUPPORTED) => Ok(Done::Unsupported),
            code => bail!("hook {verb}: exit {code:?}: {}", String::from_utf8_lossy(&output.stderr).trim()),
        }
    }
}
