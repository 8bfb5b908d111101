//! The lines that matter among what a program wrote before it ended, and what they mean (pure). Programs in all
//! languages say why they give up; they say it in the middle of much else, and not in the words of agentd's user.

use agentd_protocol::api::{Probe, ProbeOutcome};
use agentd_protocol::shim::state::Exit;

/// Letters of a line that are quoted.
const QUOTED_LETTERS_MAX: usize = 300;
/// Lines without any pattern that are quoted.
const LOUD_LINES_MAX: usize = 2;

/// What is known of the failure. `lines` are masked already, oldest first.
#[derive(Debug, Default)]
pub(super) struct Evidence<'a> {
    pub(super) lines: &'a [String],
    pub(super) exit: Option<Exit>,
    /// Of the supervisor: who listens where.
    pub(super) warnings: &'a [String],
    pub(super) last_probe: Option<&'a Probe>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Diagnosis {
    pub(super) key_lines: Vec<String>,
    pub(super) meaning: Option<String>,
}

/// What one language's way to fail looks like: the lines to quote, in order.
type Reader = fn(&[String]) -> Option<Vec<String>>;

/// From the one whose pattern is surest to the one that is a guess.
const READERS: &[Reader] = &[python, go, rust, java, node, python_syntax, shell, loud];

pub(super) fn diagnose(evidence: &Evidence<'_>) -> Diagnosis {
    let found = READERS.iter().find_map(|reader| reader(evidence.lines)).unwrap_or_default();
    let meaning = found.iter().rev().find_map(|line| meaning_of_line(line, &found));
    let meaning = meaning.or_else(|| meaning_of_answer(evidence)).or_else(|| evidence.exit.and_then(meaning_of_exit));
    let key_lines = found.iter().map(|line| line.trim().chars().take(QUOTED_LETTERS_MAX).collect()).collect();
    Diagnosis { key_lines, meaning }
}

/// The last traceback: the last frame in a file that is no library's, its code, and the error.
fn python(lines: &[String]) -> Option<Vec<String>> {
    let begin = lines.iter().rposition(|line| line.starts_with("Traceback (most recent call last)"))?;
    let frames = &lines[begin + 1..];
    let end = frames.iter().position(|line| !line.starts_with(' ') && !line.is_empty())?;
    let is_frame = |line: &&String| line.trim_start().starts_with("File \"");
    let own = |line: &&String| {
        !["site-packages", "dist-packages", "/lib/python", "<frozen "].iter().any(|library| line.contains(library))
    };
    let place = |line: &String| frames.iter().position(|other| std::ptr::eq(other, line));
    let frame = frames[..end].iter().filter(is_frame).rfind(own).or_else(|| frames[..end].iter().rfind(is_frame));
    let mut found = Vec::new();
    if let Some(at) = frame.and_then(place) {
        found.push(frames[at].clone());
        found.extend(frames.get(at + 1).filter(|code| at + 1 < end && !is_frame(code)).cloned());
    }
    found.push(frames[end].clone());
    Some(found)
}

/// A file that does not parse has no traceback: the place, the line and the error.
fn python_syntax(lines: &[String]) -> Option<Vec<String>> {
    let errors = ["SyntaxError: ", "IndentationError: ", "TabError: "];
    let end = lines.iter().rposition(|line| errors.iter().any(|error| line.starts_with(error)))?;
    let begin = lines[..end].iter().rposition(|line| line.trim_start().starts_with("File \""))?;
    let code = lines.get(begin + 1).filter(|_| begin + 1 < end);
    Some([Some(&lines[begin]), code, Some(&lines[end])].into_iter().flatten().cloned().collect())
}

/// `panic: ...` and the first frame outside of Go's own tree and the modules.
fn go(lines: &[String]) -> Option<Vec<String>> {
    let is_panic = |line: &String| line.starts_with("panic: ") || line.starts_with("fatal error: ");
    let begin = lines.iter().rposition(is_panic)?;
    let rest = &lines[begin + 1..];
    let is_go = rest.iter().any(|line| line.starts_with("goroutine ") || line.starts_with("[signal "));
    let own = |line: &&String| {
        line.starts_with('\t')
            && line.contains(".go:")
            && !["/src/runtime/", "/go/src/", "/pkg/mod/"].iter().any(|library| line.contains(library))
    };
    let frame = rest.iter().find(own).cloned();
    is_go.then(|| std::iter::once(lines[begin].clone()).chain(frame).collect())
}

/// `thread 'main' panicked at src/main.rs:4:5:` and the message after it.
fn rust(lines: &[String]) -> Option<Vec<String>> {
    let begin = lines.iter().rposition(|line| line.starts_with("thread '") && line.contains(" panicked at "))?;
    let message = lines.get(begin + 1).filter(|_| lines[begin].ends_with(':'));
    Some(std::iter::once(&lines[begin]).chain(message).cloned().collect())
}

/// The exception, its innermost cause, and the first frame that is neither Java's nor a framework's.
fn java(lines: &[String]) -> Option<Vec<String>> {
    let is_head = |line: &String| {
        line.starts_with("Exception in thread ")
            || (line.contains("Exception") || line.contains("Error")) && !line.starts_with(char::is_whitespace)
    };
    let is_frame = |line: &String| {
        line.trim_start().starts_with("at ")
            && (line.contains(".java:") || line.contains(".kt:") || line.ends_with("(Native Method)"))
    };
    let first_frame = lines.iter().rposition(is_frame)?;
    let begin = lines[..=first_frame].iter().rposition(|line| is_head(line) && !line.starts_with("Caused by: "))?;
    let trace = &lines[begin + 1..];
    let cause = trace.iter().rposition(|line| line.starts_with("Caused by: "));
    let libraries = ["at java.", "at jdk.", "at sun.", "at javax.", "at org.springframework.", "at io.netty."];
    let own = |line: &&String| {
        is_frame(line)
            && !libraries.iter().any(|library| line.trim_start().replace("java.base/", "").starts_with(library))
    };
    let frame = trace[cause.unwrap_or(0)..].iter().find(own).or_else(|| trace.iter().find(own));
    let cause = cause.map(|at| &trace[at]);
    Some([Some(&lines[begin]), cause, frame].into_iter().flatten().cloned().collect())
}

/// `TypeError: ...` and the first frame that is neither Node's nor a package's; where it does not parse, the place.
fn node(lines: &[String]) -> Option<Vec<String>> {
    let is_error = |line: &String| {
        let name = line.split([':', ' ']).next().unwrap_or_default();
        (name.ends_with("Error") || name.ends_with("Exception")) && line.len() > name.len()
    };
    let is_frame = |line: &String| line.starts_with("    at ");
    let begin = lines.windows(2).rposition(|pair| is_frame(&pair[1]) && !is_frame(&pair[0]))?;
    // A message may have lines of its own between the error and its frames.
    let head = lines[..=begin].iter().rposition(is_error)?;
    let frames = lines[begin + 1..].iter().take_while(|line| is_frame(line));
    let own = |line: &&String| !line.contains("node:") && !line.contains("node_modules") && line.contains(':');
    let place = |line: &&String| line.starts_with('/') && line.contains(".js:") || line.starts_with("file:///");
    let frame = frames.clone().find(own).or_else(|| lines[..head].iter().rev().take(6).find(place));
    Some(std::iter::once(&lines[head]).chain(frame).cloned().collect())
}

/// What shells, package clients and compilers say in one line.
fn shell(lines: &[String]) -> Option<Vec<String>> {
    const SURE: &[&str] = &[
        "address already in use",
        "eaddrinuse",
        ": not found",
        "command not found",
        "permission denied",
        "no such file or directory",
        "syntax error",
        "unable to access jarfile",
        "could not find or load main class",
        "missing script",
        "cannot find module",
        "no module named",
        "out of memory",
        "no space left on device",
        "could not find a version that satisfies",
        "e404",
        "error[e",
        "undefined: ",
        "environment variable",
    ];
    let is_sure = |line: &&String| {
        let line = line.to_ascii_lowercase();
        SURE.iter().any(|words| line.contains(words))
    };
    lines.iter().rfind(is_sure).map(|line| vec![line.clone()])
}

/// Lines that call themselves an error: a guess.
fn loud(lines: &[String]) -> Option<Vec<String>> {
    let is_loud = |line: &&String| {
        let line = line.to_ascii_lowercase();
        ["error", "fatal", "panic", "exception", "critical", "cannot ", "failed"].iter().any(|word| line.contains(word))
    };
    let mut found: Vec<String> = lines.iter().rev().filter(is_loud).take(LOUD_LINES_MAX).cloned().collect();
    found.reverse();
    (!found.is_empty()).then_some(found)
}

/// What one of the lines found says, in the words of who has to mend it.
fn meaning_of_line(line: &str, all: &[String]) -> Option<String> {
    let lower = line.to_ascii_lowercase();
    if let Some(module) = line.split_once("No module named ").map(|(_, rest)| rest) {
        let module = module.trim_matches(|letter: char| !letter.is_alphanumeric()).split(['\'', '"']).next()?;
        return Some(format!("the Python module `{module}` is not installed: let `build` install it"));
    }
    if let Some((_, rest)) = line.split_once("Cannot find module ").or_else(|| line.split_once("Cannot find package "))
    {
        let module = quoted(rest)?;
        return Some(match module.starts_with(['/', '.']) {
            true => format!("the file `{module}` is not in the release: look at `run`, `dir` and what `build` makes"),
            false => format!("the Node module `{module}` is not installed: let `build` install it (`npm ci`)"),
        });
    }
    if lower.contains("address already in use") || lower.contains("eaddrinuse") {
        let port = line.rsplit(|letter: char| !letter.is_ascii_digit()).find(|digits| digits.len() >= 2);
        let port = port.filter(|port| *port != "98").map(|port| format!(" ({port})")).unwrap_or_default();
        return Some(format!(
            "the port it wants{port} is taken: listen on $PORT, which agentd keeps free for it, or end what has that port"
        ));
    }
    if let Some((_, name)) = line.split_once("KeyError: ") {
        let name = name.trim_matches(['\'', '"']);
        let is_variable = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        let reads_variables = all.iter().any(|line| line.contains("environ"));
        return (!name.is_empty() && (is_variable || reads_variables)).then(|| {
            format!("it wants the variable {name}, which it is not given: set it under `env` or in `env_file`")
        });
    }
    if lower.contains("syntaxerror") || lower.contains("indentationerror") || lower.contains("syntax error") {
        return Some("the program does not parse: this commit cannot run".to_owned());
    }
    if lower.contains("missing script") {
        return Some("package.json has no such script: look at `build` and `run`".to_owned());
    }
    if lower.contains("no space left on device") {
        return Some("the disk is full: free some space".to_owned());
    }
    if lower.contains("out of memory") || lower.contains("outofmemoryerror") {
        return Some("it ran out of memory".to_owned());
    }
    let shell = line.ends_with(": not found") || lower.contains("command not found");
    if let Some(program) = line.rsplit(": ").find(|part| !part.contains("not found")).filter(|_| shell) {
        return Some(format!(
            "there is no program `{}` for the user it runs as: install it, or name its path",
            program.trim()
        ));
    }
    if lower.contains("permission denied") || lower.contains("eacces") {
        return Some(
            "it may not do that as the user it runs as: look at owner and mode, and write under $DATA_DIR only"
                .to_owned(),
        );
    }
    None
}

/// The first word in quotes.
fn quoted(text: &str) -> Option<&str> {
    let begin = text.find(['\'', '"'])?;
    let rest = &text[begin + 1..];
    rest.split(['\'', '"']).next().filter(|word| !word.is_empty())
}

/// What the health check's answers, and who listens where, say of a program that runs.
fn meaning_of_answer(evidence: &Evidence<'_>) -> Option<String> {
    let elsewhere = evidence.warnings.iter().find_map(|warning| warning.strip_prefix("run.other-port: listens on "));
    if let Some((found, expected)) = elsewhere.and_then(|text| text.split_once(", expected $PORT=")) {
        return Some(format!(
            "it listens on port {found} and not on {expected}: let it listen on $PORT, or give it `port = {found}`"
        ));
    }
    if evidence.exit.is_some() {
        return None;
    }
    let said = match &evidence.last_probe?.outcome {
        ProbeOutcome::Passed { .. } => return None,
        ProbeOutcome::Refused => "it runs and listens nowhere: it must listen on 127.0.0.1:$PORT",
        ProbeOutcome::TimedOut => "it accepts the health check's connection and does not answer: is it stuck at start?",
        ProbeOutcome::Status { status: 404 } => "it has no such path: look at `health.path`",
        ProbeOutcome::Status { status: 401 | 403 } => "the health check is asked to log in: let its path be open",
        ProbeOutcome::Status { status: 400 } => {
            "it refuses the health check; some frameworks want a known name: `health.host`"
        }
        ProbeOutcome::Status { status: 500.. } => "it runs and calls itself unhealthy: its log should say why",
        ProbeOutcome::Status { .. } | ProbeOutcome::Failed { .. } => return None,
    };
    Some(said.to_owned())
}

fn meaning_of_exit(exit: Exit) -> Option<String> {
    let said = match exit {
        Exit::Code(0) => "it ended well: `run` must stay in the foreground (or set `restart = \"on-failure\"`)",
        Exit::Code(127) => "a program was not found: look at `run`, and at PATH of the user it runs as",
        Exit::Code(126) => "the file is no program: `chmod +x` it in the repository, or name its interpreter in `run`",
        Exit::Signal { number: 9, .. } => {
            "SIGKILL came from outside; agentd kills only what does not stop in its time. Ran the host out of memory? \
             `dmesg | grep -i oom` tells"
        }
        Exit::Signal { number: 11, .. } => "it touched memory that is not its own (a bug in native code)",
        Exit::Signal { number: 6, .. } => "it gave up by itself (abort)",
        Exit::Signal { number: 4, .. } => "it was built for another processor",
        Exit::TimeLimit | Exit::Unknown | Exit::ExecFailed { .. } | Exit::Code(_) | Exit::Signal { .. } => return None,
    };
    Some(said.to_owned())
}

#[cfg(test)]
mod tests;
