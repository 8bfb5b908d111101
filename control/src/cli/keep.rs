//! `controld backup` and `controld restore`.

use std::path::Path;

use agentd_protocol::exit_code::Exit;

use super::Error;
use super::client::Client;
use super::options::Restore;
use super::out::{Out, time};
use crate::clock;
use crate::core::shown;
use crate::model::{BackupContents, BackupMade};
use crate::operator_api::BackupTo;
use crate::seal::Key;
use crate::serve::Home;
use crate::store::{self, Contents};

pub(super) async fn backup(client: &Client, file: &Path, out: &mut Out) -> Result<Exit, Error> {
    let failed = |source| Error::Read { path: file.to_owned(), source };
    let file = std::path::absolute(file).map_err(failed)?;
    let made: BackupMade = client.post("/backup", &BackupTo { file: file.display().to_string() }).await?;
    if !out.json(&made) {
        out.line(format!("{}  {} bytes  sha256 {}", made.file, made.bytes, made.sha256));
        print(&made.contents, out);
        out.line("The key file is not in it: keep a copy elsewhere, without it no secret comes back.");
    }
    Ok(Exit::Ok)
}

pub(super) fn restore(home: &Path, options: &Restore, out: &mut Out) -> Result<Exit, Error> {
    if options.dry_run {
        let default = home.join(crate::serve::KEY_FILE);
        let path = options.key_file.as_deref().unwrap_or(&default);
        // One that was named has to be there.
        let key = if options.key_file.is_some() || path.exists() { Some(Key::read(path)?) } else { None };
        let inspected = store::inspect(&options.file)?;
        let contents = shown(inspected.clone(), key.as_ref());
        if !out.json(&contents) {
            out.line("whole; it would bring back:");
            print(&contents, out);
            print_hosts(&contents, "would be", out);
        }
        if let Some(key) = &key {
            check(&inspected, key, path, &options.file)?;
        }
        return Ok(Exit::Ok);
    }
    let home = Home::take(home)?;
    let path = home.key_path(options.key_file.as_deref());
    let key = Key::read(&path)?;
    let now = clock::now_unix_ms();
    let restored =
        store::restore(&options.file, &home.dir, now, |inspected| check(inspected, &key, &path, &options.file))?;
    let contents = shown(restored, Some(&key));
    if !out.json(&contents) {
        out.line("restored:");
        print(&contents, out);
        print_hosts(&contents, "are", out);
        out.line("Open tokens were revoked. Versions that hosts have seen since are shown as ahead, and counted over.");
    }
    Ok(Exit::Ok)
}

/// That it was made by who has the key, and that the key opens what is in it.
fn check(inspected: &Contents, key: &Key, key_path: &Path, file: &Path) -> Result<(), Error> {
    let (path, file) = (key_path.to_owned(), file.to_owned());
    let shown = shown(inspected.clone(), Some(key));
    match (shown.authentic, shown.key_fits) {
        (Some(true), _) => Ok(()),
        _ if inspected.proof.is_none() => Err(Error::BackupUnproven { path: file }),
        (_, Some(false)) => Err(Error::BackupKey { key: path, path: file }),
        _ => Err(Error::BackupForeign { key: path, path: file }),
    }
}

/// A restore forgets who was sent away since; only people know.
fn print_hosts(contents: &BackupContents, are: &str, out: &mut Out) {
    let all: u64 = contents.stacks.iter().map(|stack| stack.hosts).sum();
    if all == 0 {
        return;
    }
    out.line(format!(
        "Hosts revoked since {} {are} taken again: revoke them anew. {all} {are} active:",
        time(contents.made_unix_ms)
    ));
    let rows: Vec<Vec<String>> =
        contents.active.iter().map(|host| vec![host.name.clone(), host.stack.clone(), host.id.to_string()]).collect();
    out.table(&["HOST", "STACK", "ID"], &rows);
    let more = all.saturating_sub(u64::try_from(rows.len()).unwrap_or(all));
    if more > 0 {
        out.line(format!("and {more} more; `controld host list` lists all of a server that runs"));
    }
}

fn print(contents: &BackupContents, out: &mut Out) {
    out.line(format!("made {}, schema {}", time(contents.made_unix_ms), contents.schema));
    let rows: Vec<Vec<String>> = contents
        .stacks
        .iter()
        .map(|stack| vec![stack.name.clone(), stack.id.to_string(), stack.version.to_string(), stack.hosts.to_string()])
        .collect();
    out.table(&["STACK", "ID", "VERSION", "HOSTS"], &rows);
    let key = match contents.key_fits {
        Some(true) if contents.authentic == Some(true) => "the key file opens its secrets, and nobody else made it",
        Some(true) => "the key file opens its secrets, but it was NOT made with it",
        Some(false) => "the key file is ANOTHER one: its secrets do not open",
        None => "no key file was tried: whether somebody else made or changed it is not known",
    };
    out.line(format!("{} open tokens, {} rows of audit; {key}", contents.tokens_open, contents.audit_rows));
}
