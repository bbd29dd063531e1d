//! `marquee admin backup`: a copy of the whole cluster, kept where it is typed.

use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use indicatif::ProgressBar;
use marquee_view::{Page, View, units};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::backup::{self, Made, Moment, Progress};
use crate::clock;
use crate::error::{CliError, Result};
use crate::say::say;
use crate::session::Session;
use crate::signals::Signals;

/// How often a terminal is told how far it is, and a log.
const SHOWN_EVERY: Duration = Duration::from_millis(250);
const SAID_EVERY: Duration = Duration::from_secs(30);

/// Copy the cluster, jobs and results as they are at one moment, into a folder here; it goes on working meanwhile
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin backup ~/backups/vision
  marquee admin backup /mnt/nas/marquee --dry-run       what it would hold, and whether there is room
  marquee admin backup /mnt/nas/marquee --output json

A second backup into the same folder fetches what is new and replaces the first in one step: at each moment the folder
can be restored (\"marquee-coordinator restore\"). Interrupted, it goes on from the files that it has. Settings, keys and
certificates are not in it. Anybody who can read the folder has all results: keep it as such.")]
pub(in crate::commands) struct Args {
    /// It is made where it is not there
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Only say what it would hold, what is there already, and whether there is room
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let folder = std::path::absolute(&args.folder)?;
    let folder = folder.as_path();
    if args.dry_run {
        let moment = backup::look(&remote, folder).await?;
        let plan = Plan::of(folder, &moment);
        session.output.show(&plan, clock::now())?;
        return Ok(());
    }
    let mut signals = Signals::catch()?;
    let progress = Arc::new(Progress::default());
    let made = tokio::select! {
        made = backup::make(&remote, folder, &progress) => made,
        never = shown(&progress, session) => match never {},
        () = signals.next() => Err(CliError::Interrupted { hint: None }),
    };
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            backup::say_what_stands(folder);
            return Err(error);
        }
    };
    let view = BackedUp {
        folder,
        made: &made,
    };
    session.output.show(&view, clock::now())?;
    let absent = &made.manifest.absent;
    let Some(first) = absent.first() else {
        return Ok(());
    };
    // For whoever looks at the exit code alone: there is something that jobs name and no backup holds.
    Err(anyhow::anyhow!(
        "the backup stands, but {} that jobs name were missing or damaged, such as {} ({}); \"marquee audit verify\" names their jobs",
        units::plural(absent.len(), "file"),
        first.digest.short(),
        first.why
    )
    .into())
}

/// Says how far it is, until it is dropped.
async fn shown(progress: &Progress, session: &Session) -> Infallible {
    if std::io::stderr().is_terminal() {
        let line = Line(ProgressBar::new_spinner());
        loop {
            line.0.set_message(progress.text());
            line.0.tick();
            sleep(SHOWN_EVERY).await;
        }
    }
    loop {
        sleep(SAID_EVERY).await;
        if session.output.is_for_people() {
            say!("{}", progress.text());
        }
    }
}

/// A line that goes when it is dropped.
struct Line(ProgressBar);

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// What a backup would be.
struct Plan<'a> {
    folder: &'a Path,
    moment: &'a Moment,
    bytes: u64,
    missing: usize,
    missing_bytes: u64,
    free_bytes: Option<u64>,
}

impl<'a> Plan<'a> {
    fn of(folder: &'a Path, moment: &'a Moment) -> Self {
        let (missing, missing_bytes) = moment.missing(folder);
        Self {
            folder,
            moment,
            bytes: units::total(moment.files.values().copied()),
            missing: missing.len(),
            missing_bytes,
            free_bytes: backup::free_bytes(folder),
        }
    }

    /// As far as can be told: the dump is packed, and takes what the database takes at most.
    fn room(&self) -> &'static str {
        let most = self
            .missing_bytes
            .saturating_add(self.moment.database_bytes);
        match self.free_bytes {
            None => "unknown",
            Some(free) if free >= most => "enough",
            Some(free) if free >= self.missing_bytes => "perhaps",
            Some(_) => "too little",
        }
    }
}

impl View for Plan<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        let count = |number: usize| units::plural(number, "file");
        let free = self.free_bytes.map_or("unknown".to_owned(), units::bytes);
        page.line(format!("would be backed up to {}:", self.folder.display()));
        page.fields(vec![
            ("cluster", self.moment.cluster.to_string().into()),
            (
                "database",
                format!(
                    "{}, and less as a dump",
                    units::bytes(self.moment.database_bytes)
                )
                .into(),
            ),
            (
                "files",
                format!(
                    "{} of {}",
                    count(self.moment.files.len()),
                    units::bytes(self.bytes)
                )
                .into(),
            ),
            (
                "not there yet",
                format!(
                    "{} of {}",
                    count(self.missing),
                    units::bytes(self.missing_bytes)
                )
                .into(),
            ),
            ("free", free.into()),
            ("room", self.room().into()),
        ]);
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        json!({
            "dry_run": true,
            "folder": self.folder,
            "cluster_id": self.moment.cluster,
            "version": self.moment.version,
            "database_bytes": self.moment.database_bytes,
            "files": { "count": self.moment.files.len(), "bytes": self.bytes },
            "missing": { "count": self.missing, "bytes": self.missing_bytes },
            "free_bytes": self.free_bytes,
            "room": self.room(),
        })
    }

    fn ids(&self) -> Vec<String> {
        vec![self.folder.display().to_string()]
    }
}

/// A backup that was made.
struct BackedUp<'a> {
    folder: &'a Path,
    made: &'a Made,
}

impl View for BackedUp<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        let Made {
            manifest,
            copied,
            copied_bytes,
        } = self.made;
        page.line(format!(
            "backed up to {}: a database of {} and {} files of {}; {copied} of {} were fetched now",
            self.folder.display(),
            units::bytes(manifest.dump.bytes),
            manifest.files.count,
            units::bytes(manifest.files.bytes),
            units::bytes(*copied_bytes)
        ));
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        let manifest = &self.made.manifest;
        let absent = manifest.absent.iter();
        let absent: Vec<Value> = absent
            .map(|one| json!({ "digest": one.digest, "why": one.why }))
            .collect();
        json!({
            "dry_run": false,
            "folder": self.folder,
            "cluster_id": manifest.cluster_id,
            "version": manifest.version,
            "made_at": units::rfc3339(manifest.made_at),
            "database": { "file": manifest.dump.file, "bytes": manifest.dump.bytes },
            "files": { "count": manifest.files.count, "bytes": manifest.files.bytes },
            "fetched": { "count": self.made.copied, "bytes": self.made.copied_bytes },
            "absent": absent,
        })
    }

    fn ids(&self) -> Vec<String> {
        vec![self.folder.display().to_string()]
    }
}
