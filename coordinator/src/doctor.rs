//! `marquee-coordinator doctor`: whether this host can run a coordinator, and what to do where not.
//!
//! Invariant: it changes nothing and ends. Not here: workers' hosts (`marquee-worker doctor`).

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use marquee_domain::doctor::{Check, Report};
use marquee_proto::certificate;
use nix::sys::statvfs::statvfs;

use crate::access::{Access, Rule};
use crate::config::{Config, DEFAULT_FILE, DatabaseUrl, Flags, TlsFiles, is_credential};
use crate::env::{Clock as _, SystemClock};
use crate::postgres;
use crate::secrets::SecretKeys;
use uuid::Uuid;

/// How long a Postgres that is configured may take to answer.
const DATABASE_MAX: Duration = Duration::from_secs(8);
/// Free disk: below the first Postgres stops working soon, below the second artifacts do.
const DISK_MIN_BYTES: u64 = 1 << 30;
const DISK_GOOD_BYTES: u64 = 10 << 30;

/// Looks at everything.
pub async fn run(flags: &Flags, env: HashMap<String, String>) -> Report {
    let mut checks = Vec::new();
    match Config::load(flags, env) {
        Ok(config) => look(&config, &mut checks).await,
        Err(error) => {
            let file = flags.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
            let cure = format!(
                "correct {} (deploy/coordinator.toml shows every key)",
                file.display()
            );
            checks.push(Check::failed("settings", error.to_string(), cure));
        }
    }
    Report {
        program: "marquee-coordinator".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        checks,
    }
}

async fn look(config: &Config, checks: &mut Vec<Check>) {
    let found = format!(
        "listens on {}, data in {}",
        config.listen,
        config.data_dir.display()
    );
    checks.push(Check::ok("settings", found));
    checks.push(access(&config.access));
    checks.push(match &config.database_url {
        Some(url) => database(url).await,
        None => programs(config),
    });
    checks.push(disk(&config.data_dir));
    checks.push(secrets_key(config.secrets_key.as_deref()));
    checks.extend(crate::objects::probe(config).await);
    match &config.tls {
        Some(files) => certificates(files, checks),
        None => checks.push(Check::skipped(
            "certificates",
            "no [tls] and no authority (marquee-coordinator init): only this host can reach the coordinator",
        )),
    }
}

/// Who may ask. Seen from here: a service may be in a namespace of its own.
fn access(rule: &Rule) -> Check {
    let name = "access";
    match rule {
        Rule::Everybody => Check::ok(name, "certificates decide, or access.loopback is \"open\""),
        Rule::Accounts { .. } if Access::new(rule.clone()).is_blind() => Check::warning(
            name,
            "this process cannot tell accounts apart, and serves all of this host",
            "run it outside of a user namespace; in a unit, without PrivateUsers=yes",
        ),
        Rule::Accounts { accounts, group } => {
            let mut who = vec!["the coordinator's account".to_owned(), "root".to_owned()];
            who.extend(accounts.iter().cloned());
            who.extend(group.iter().map(|group| format!("group {}", group.name)));
            Check::ok(name, format!("over loopback: {}", who.join(", ")))
        }
    }
}

/// What encrypts secrets for jobs.
fn secrets_key(file: Option<&Path>) -> Check {
    let name = "secrets key";
    match file {
        // No fault: nobody has to keep secrets here.
        None => Check::skipped(
            name,
            "no secrets_key: no secrets for jobs (docs/secrets.md)",
        ),
        Some(file) if is_credential(file) => {
            Check::skipped(name, "it is a credential, which only the service has")
        }
        Some(file) => match SecretKeys::at(Some(file.to_owned())).read() {
            Ok(keys) => Check::ok(
                name,
                format!("new secrets are encrypted by key {}", keys.current_id()),
            ),
            Err(error) => {
                let cure = "jobs that name secrets fail until it is mended: docs/errors/MQ0386.md";
                Check::failed(name, error.to_string(), cure)
            }
        },
    }
}

/// The Postgres that is configured. Its URL may hold a password and is not shown.
async fn database(url: &DatabaseUrl) -> Check {
    let url = match url.get() {
        Ok(url) => url,
        Err(error) => return Check::skipped("postgres", error.to_string()),
    };
    let cure = "is database_url right, and does the server run? try \"psql\" with the same URL";
    // Connects and no more: a look must not bring the tables up to date.
    let connecting = marquee_store::Db::connect(url, Uuid::nil());
    let connected = tokio::time::timeout(DATABASE_MAX, connecting).await;
    match connected {
        Ok(Ok(db)) => {
            db.close().await;
            Check::ok("postgres", "the database of database_url answers")
        }
        Ok(Err(error)) => Check::failed("postgres", error.to_string(), cure),
        Err(_) => {
            let found = format!("no answer in {} s", DATABASE_MAX.as_secs());
            Check::failed("postgres", found, cure)
        }
    }
}

/// The programs for a Postgres of our own.
fn programs(config: &Config) -> Check {
    match postgres::programs(&config.data_dir, config.postgres_bin.as_deref()) {
        Ok((folder, major)) => {
            let found = format!("version {major} in {}, for a private one", folder.display());
            Check::ok("postgres", found)
        }
        Err(error) => {
            // The errors of this module end with their cure.
            let text = error.to_string();
            let (found, cure) = text
                .split_once("; ")
                .unwrap_or((&text, "see docs/deploy.md"));
            Check::failed("postgres", found, cure)
        }
    }
}

fn disk(data_dir: &Path) -> Check {
    let name = "data folder";
    // It is made at the first start: till then the folder above says how much room there is.
    let folder = data_dir.ancestors().find(|folder| folder.is_dir());
    let folder = folder.unwrap_or(Path::new("/"));
    let Ok(room) = statvfs(folder) else {
        let why = format!("the room in {} cannot be told", folder.display());
        return Check::skipped(name, why);
    };
    let free = room.blocks_available() * room.fragment_size();
    let gib = free as f64 / (1_u64 << 30) as f64;
    let found = format!("{}: {gib:.1} GiB free", data_dir.display());
    let cure = format!(
        "make room (\"du -xh --max-depth=2 {}\"), or move it",
        folder.display()
    );
    if free < DISK_MIN_BYTES {
        Check::failed(name, found, cure)
    } else if free < DISK_GOOD_BYTES {
        Check::warning(name, found, cure)
    } else {
        Check::ok(name, found)
    }
}

fn certificates(files: &TlsFiles, checks: &mut Vec<Check>) {
    let cure = "correct [tls] in coordinator.toml (docs/deploy.md, \"Start, many hosts\")";
    if let Err(error) = crate::tls::Tls::open(files) {
        checks.push(Check::failed("certificates", format!("{error:#}"), cure));
        return;
    }
    let now = SystemClock.now();
    let mut named = vec![("tls.cert", &files.cert)];
    named.extend(files.client_cas.iter().map(|file| ("tls.client_ca", file)));
    for (key, file) in named {
        checks.push(match std::fs::read_to_string(file) {
            Ok(pem) => certificate::check(key, &pem, now),
            Err(error) => Check::failed(key, format!("{}: {error}", file.display()), cure),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marquee_domain::doctor::Verdict;

    fn verdict(report: &Report, name: &str) -> Verdict {
        let check = report.checks.iter().find(|check| check.name == name);
        check
            .unwrap_or_else(|| panic!("no check {name} in {report:?}"))
            .verdict
    }

    async fn with(vars: &[(&str, &str)]) -> Report {
        let vars = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        run(&Flags::default(), vars.collect()).await
    }

    #[tokio::test]
    async fn each_check_fails_where_it_should() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().display().to_string();
        let none = with(&[
            ("MARQUEE_COORDINATOR__DATA_DIR", &data),
            ("MARQUEE_COORDINATOR__POSTGRES_BIN", &data),
        ])
        .await;
        assert_eq!(verdict(&none, "settings"), Verdict::Ok);
        assert_eq!(verdict(&none, "postgres"), Verdict::Failed);
        let silent = with(&[
            ("MARQUEE_COORDINATOR__DATA_DIR", &data),
            (
                "MARQUEE_COORDINATOR__DATABASE_URL",
                "postgres://m:pa55word@127.0.0.1:1/m",
            ),
        ])
        .await;
        assert_eq!(verdict(&silent, "postgres"), Verdict::Failed);
        assert!(!format!("{silent:?}").contains("pa55word"), "{silent:?}");
        let open = with(&[("MARQUEE_COORDINATOR__LISTEN", "0.0.0.0:7700")]).await;
        assert_eq!(verdict(&open, "settings"), Verdict::Failed);
    }

    #[tokio::test]
    async fn the_programs_that_are_installed_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut vars = vec![(
            "MARQUEE_COORDINATOR__DATA_DIR".to_owned(),
            dir.path().display().to_string(),
        )];
        if let Ok(bin) = std::env::var("MARQUEE_POSTGRES_BIN") {
            vars.push(("MARQUEE_COORDINATOR__POSTGRES_BIN".to_owned(), bin));
        }
        let report = run(&Flags::default(), vars.into_iter().collect()).await;
        assert_eq!(verdict(&report, "postgres"), Verdict::Ok, "{report:?}");
    }
}
