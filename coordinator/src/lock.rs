//! Two locks: one coordinator on a data folder, one coordinator on a database.
//!
//! Both end with the process that holds them, however it dies. The folder's keeps two processes
//! from one private Postgres and one blob folder; the database's keeps two coordinators on two
//! hosts, with one database, from judging each other's workers.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sqlx::postgres::PgAdvisoryLock;
use sqlx::{Connection as _, Either, PgConnection};
use tokio::time::{Instant, sleep, timeout};

/// Names the lock within a database; sqlx makes a number of it.
const LOCK_NAME: &str = "marquee coordinator";
/// How long to wait for a database lock that another holds: Postgres notices the end of a killed
/// coordinator's connection in milliseconds on one host, a little later over a network.
const TAKE_WITHIN: Duration = Duration::from_secs(5);
const TAKE_EVERY: Duration = Duration::from_millis(100);
/// How often the connection that holds the lock is tried, and how long it may take to answer.
const CHECK_EVERY: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Takes the data folder, and makes it where there is none. The lock lives as long as the file.
pub fn data_folder(folder: &Path) -> anyhow::Result<File> {
    // Passable for the account that a private Postgres may run as, listed by nobody else.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folder)
        .with_context(|| format!("could not create data_dir {folder:?}; choose another folder"))?;
    let path = folder.join("coordinator.lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("could not open {path:?}; is data_dir ours?"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            bail!(
                "data_dir {folder:?} is in use by another coordinator (process {}); stop that one, or give this one a folder of its own with --data-dir",
                holder.trim()
            );
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("could not lock {path:?}"));
        }
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// The lock of the database. It lives as long as its connection.
#[derive(Debug)]
pub struct DatabaseLock {
    url: String,
    connection: PgConnection,
}

/// What became of one try.
enum Try {
    Taken(PgConnection),
    HeldByAnother,
}

impl DatabaseLock {
    /// Takes the lock.
    pub async fn take(url: &str) -> anyhow::Result<Self> {
        let deadline = Instant::now() + TAKE_WITHIN;
        loop {
            match try_take(url).await? {
                Try::Taken(connection) => {
                    return Ok(Self {
                        url: url.to_owned(),
                        connection,
                    });
                }
                Try::HeldByAnother if Instant::now() > deadline => {
                    bail!("another coordinator works with this database; stop that one first")
                }
                Try::HeldByAnother => sleep(TAKE_EVERY).await,
            }
        }
    }

    /// Holds the lock, and takes it again when Postgres was away. Returns only when another
    /// coordinator has it: then this one must stop.
    pub async fn keep(mut self) -> anyhow::Error {
        loop {
            sleep(CHECK_EVERY).await;
            let answer = timeout(ANSWER_WITHIN, self.connection.ping()).await;
            if matches!(answer, Ok(Ok(()))) {
                continue;
            }
            tracing::warn!("lost the connection that holds the database's lock; taking it again");
            match self.take_again().await {
                Ok(()) => tracing::info!("took the database's lock again"),
                Err(error) => return error,
            }
        }
    }

    async fn take_again(&mut self) -> anyhow::Result<()> {
        let mut held_since = None;
        loop {
            match timeout(ANSWER_WITHIN, try_take(&self.url)).await {
                Ok(Ok(Try::Taken(connection))) => {
                    self.connection = connection;
                    return Ok(());
                }
                Ok(Ok(Try::HeldByAnother)) => {
                    // Our own old connection may hold it for a moment.
                    let since = *held_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > TAKE_WITHIN {
                        bail!("another coordinator took over this database");
                    }
                }
                // Postgres is away: nobody else can take it either.
                Ok(Err(_)) | Err(_) => held_since = None,
            }
            sleep(TAKE_EVERY).await;
        }
    }
}

async fn try_take(url: &str) -> sqlx::Result<Try> {
    let connection = PgConnection::connect(url).await?;
    match PgAdvisoryLock::new(LOCK_NAME)
        .try_acquire(connection)
        .await?
    {
        // Without its guard the lock ends with the connection, which is what we want.
        Either::Left(guard) => Ok(Try::Taken(guard.leak())),
        Either::Right(_) => Ok(Try::HeldByAnother),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_has_one_coordinator() {
        let folder = tempfile::tempdir().unwrap();
        let first = data_folder(folder.path()).unwrap();
        let error = data_folder(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(first);
        data_folder(folder.path()).unwrap();
    }
}
