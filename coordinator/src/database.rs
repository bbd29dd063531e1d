//! The database that the coordinator works with: one that is configured, or a private one.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use marquee_store::lock::DatabaseLock;
use marquee_store::{Db, Schema};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::config::Config;
use crate::postgres::{Cluster, Keeper};

/// How long to wait at start for a Postgres that does not answer yet: one that starts with the
/// host, or recovers. After that the service manager starts us again.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// A database that answers.
#[derive(Debug)]
pub struct Database {
    /// Holds a password: not for logs.
    pub url: String,
    /// The server, if it is ours.
    keeper: Option<Keeper>,
}

impl Database {
    /// Starts the private Postgres, unless a database is configured. The caller holds the lock of
    /// the data folder.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        if let Some(url) = &config.database_url {
            return Ok(Self {
                url: url.get()?.to_owned(),
                keeper: None,
            });
        }
        let launcher = std::env::current_exe().context("could not find our own program")?;
        let (data_dir, bin) = (config.data_dir.clone(), config.postgres_bin.clone());
        private(data_dir, bin, launcher).await
    }

    /// Whether the server is ours: then no other coordinator can work with it.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.keeper.is_some()
    }

    /// The database, with tables in which a leader can be chosen: where there are none, or those of a version that
    /// knew no leader, they are made under that version's lock. Nothing can be written until somebody leads.
    /// `process` is drawn anew by each process.
    pub async fn open(&self, process: Uuid) -> anyhow::Result<(Db, Schema)> {
        let db = self.connect(process).await?;
        let mut schema = db.schema().await?;
        // Two coordinators that start at once must not both make the tables.
        if schema == Schema::BeforeLeaders {
            let _lock = DatabaseLock::take(&self.url).await?;
            db.migrate().await?;
            schema = Schema::Ours;
        }
        Ok((db, schema))
    }

    async fn connect(&self, process: Uuid) -> anyhow::Result<Db> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut was_told = false;
        loop {
            match Db::connect(&self.url, process).await {
                Ok(db) => return Ok(db),
                Err(error) if error.may_pass() && Instant::now() < deadline => {
                    if !was_told {
                        tracing::warn!(%error, "the database does not answer; waiting for it");
                        was_told = true;
                    }
                    sleep(RETRY_EVERY).await;
                }
                Err(error) => {
                    return Err(error)
                        .context("could not connect to the database; check database_url");
                }
            }
        }
    }

    /// Stops the private Postgres in order.
    pub async fn stop(self) {
        if let Some(keeper) = self.keeper {
            keeper.stop().await;
        }
    }
}

/// Starts a private Postgres in `data_dir`; `launcher` is the coordinator's program.
pub async fn private(
    data_dir: PathBuf,
    postgres_bin: Option<PathBuf>,
    launcher: PathBuf,
) -> anyhow::Result<Database> {
    // Files and programs: a first start takes a second or two.
    let open = move || Cluster::open(&data_dir, postgres_bin.as_deref(), &launcher);
    let cluster = tokio::task::spawn_blocking(open).await??;
    let url = cluster.url();
    tracing::info!(version = cluster.major(), "starting the private Postgres");
    let keeper = Keeper::start(cluster).await?;
    Ok(Database {
        url,
        keeper: Some(keeper),
    })
}
