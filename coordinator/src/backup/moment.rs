//! One moment of the cluster down a stream, for `marquee admin backup`: which files its jobs name, then the database, as
//! `pg_dump` writes it. Who reads keeps it in the folder of a backup and fetches the files as everybody does.
//!
//! Nothing of it comes to lie on this host: its disk may be what is about to fail, and no path is taken from far away.
//! Invariant: a stream without its end is worth nothing, and nobody can take it for whole.
//! Not here: the copy that the daemon's own command makes (`super`).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use marquee_domain::artifact::Digest;
use marquee_domain::ids::PipelineId;
use marquee_domain::limits::CHUNK_BYTES;
use marquee_store::backup::{self as store, NamedFile};
use marquee_store::{Conn, StoreError};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use uuid::Uuid;

use super::PIPELINES_AT_ONCE;
use super::dump::{LOOK_EVERY, Streaming, Tools};
use crate::app::App;
use crate::lifecycle::LifecycleError;

/// Parts that wait for a slow reader: some 4 MiB.
pub(crate) const WAITING_MAX: usize = 16;
/// How long a reader may take for the next of them. The dump keeps rows that change meanwhile, and with them the whole
/// cluster's tables grow: who has closed his laptop must not do that for hours.
pub const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// How long all of it may take, for the same reason.
pub const WITHIN: Duration = Duration::from_secs(60 * 60);
/// Files in one message: some 400 KB.
const FILES_AT_ONCE: usize = 5_000;

/// Why a moment cannot be had, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum MomentError {
    /// No `pg_dump`, an older one, or one that failed: what it says, with the way out.
    #[error("{0:#}")]
    Tools(anyhow::Error),
    #[error(
        "the reader took nothing for {} s; nearer to the coordinator it goes faster, and \"marquee-coordinator backup FOLDER\" on its host needs no connection",
        TAKEN_WITHIN.as_secs()
    )]
    SlowReader,
    #[error(
        "the dump was not through after {} min; \"marquee-coordinator backup FOLDER\" on the coordinator's host has no such limit",
        WITHIN.as_secs() / 60
    )]
    TooLong,
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    #[error("the coordinator is stopping")]
    Stopping,
    /// Nobody reads any more.
    #[error("the reader is gone")]
    Gone,
}

impl std::convert::From<StoreError> for MomentError {
    fn from(error: StoreError) -> Self {
        Self::Lifecycle(error.into())
    }
}

/// A part of a moment, in their order.
#[derive(Debug)]
pub enum Part {
    Head(Head),
    /// Some of the files. One that several pipelines name may come several times.
    Files(Vec<NamedFile>),
    Dump(Bytes),
    End(End),
}

#[derive(Debug)]
pub struct Head {
    pub cluster: Uuid,
    pub storage: Uuid,
    pub database_bytes: u64,
}

#[derive(Debug)]
pub struct End {
    pub dump_bytes: u64,
    /// None: no dump was asked for.
    pub digest: Option<Digest>,
}

pub(crate) type Parts = mpsc::Sender<Result<Part, MomentError>>;

/// Sends one moment, written down in the audit as `caller`'s; where it `is_dry`, without a dump and written down nowhere.
pub(crate) async fn send(
    app: &App,
    is_dry: bool,
    caller: &str,
    to: &Parts,
) -> Result<(), MomentError> {
    let until = Instant::now() + WITHIN;
    let from = app.dumps.from().map_err(MomentError::Tools)?;
    let mut conn = app.db.read().await?;
    let database_bytes = store::get_database_bytes(&mut conn).await?;
    let server = store::get_server_major(&mut conn).await?;
    drop(conn);
    // Before anything is written down of it, and also where nothing will be dumped: that is what a trial is for.
    let place = from.place.clone();
    let found = tokio::task::spawn_blocking(move || {
        let tools = Tools::find(&place)?;
        tools.can_read(server).map(|()| tools)
    });
    let found = found.await.map_err(anyhow::Error::from);
    let tools = found.flatten().map_err(MomentError::Tools)?;
    let storage = app.blobs.storage(app.random.uuid()).await;
    let storage = storage.map_err(LifecycleError::from)?;
    if !is_dry {
        // First: whoever has got some of it was seen.
        let mut tx = app.db.write_as("backup", caller).await?;
        store::insert_backup(&mut tx).await?;
        tx.commit().await?;
    }
    let mut snapshot = app.db.snapshot().await?;
    let name = store::export_snapshot(&mut snapshot).await?;
    let head = Head {
        cluster: app.cluster,
        storage,
        database_bytes,
    };
    pass(to, Part::Head(head)).await?;
    send_files(&mut snapshot, to, until).await?;
    let end = if is_dry {
        End {
            dump_bytes: 0,
            digest: None,
        }
    } else {
        let dumping = tools.stream(&from.url, &name).map_err(MomentError::Tools)?;
        let sent = send_dump(dumping, snapshot, to);
        let sent = timeout_at(until, sent).await;
        sent.map_err(|_| MomentError::TooLong)??
    };
    pass(to, Part::End(end)).await
}

/// Page by page as they are read: a list of all would be held here for the slowest reader.
async fn send_files(snapshot: &mut Conn, to: &Parts, until: Instant) -> Result<(), MomentError> {
    let mut after = PipelineId(0);
    while let Some((last, mut files)) =
        store::list_named_files(snapshot, after, PIPELINES_AT_ONCE).await?
    {
        after = last;
        // Of one page: most files are of one pipeline, whose jobs hand them on.
        files.sort_unstable();
        files.dedup_by(|next, kept| next.digest == kept.digest);
        while !files.is_empty() {
            let rest = files.split_off(files.len().min(FILES_AT_ONCE));
            pass(to, Part::Files(std::mem::replace(&mut files, rest))).await?;
        }
        if Instant::now() > until {
            return Err(MomentError::TooLong);
        }
    }
    Ok(())
}

async fn send_dump(mut dumping: Streaming, snapshot: Conn, to: &Parts) -> Result<End, MomentError> {
    let mut snapshot = Some(snapshot);
    let (mut hash, mut dump_bytes) = (Sha256::new(), 0);
    let mut bytes = BytesMut::with_capacity(CHUNK_BYTES);
    loop {
        let read = match &mut snapshot {
            // The dump has the moment for its own only once it has begun, and Postgres ends transactions that lie idle.
            Some(held) => tokio::select! {
                read = dumping.read(&mut bytes) => read,
                () = sleep(LOOK_EVERY) => {
                    store::keep_snapshot(held).await?;
                    continue;
                }
            },
            None => dumping.read(&mut bytes).await,
        };
        let read = read.map_err(MomentError::Tools)?;
        // It writes only after it has looked at all tables in the moment's transaction.
        snapshot = None;
        if read > 0 && bytes.len() < CHUNK_BYTES {
            continue;
        }
        if !bytes.is_empty() {
            let part = bytes.split().freeze();
            hash.update(&part);
            dump_bytes += part.len() as u64;
            pass(to, Part::Dump(part)).await?;
            bytes.reserve(CHUNK_BYTES);
        }
        if read == 0 {
            break;
        }
    }
    dumping.finish().await.map_err(MomentError::Tools)?;
    Ok(End {
        dump_bytes,
        digest: Some(Digest::from_hash(&hash.finalize())),
    })
}

async fn pass(to: &Parts, part: Part) -> Result<(), MomentError> {
    match timeout(TAKEN_WITHIN, to.send(Ok(part))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(MomentError::Gone),
        Err(_) => Err(MomentError::SlowReader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_takes_nothing_is_given_up_and_one_who_left_at_once() {
        let (to, reader) = mpsc::channel(1);
        let begun = Instant::now();
        pass(&to, Part::Dump(Bytes::new())).await.unwrap();
        let slow = pass(&to, Part::Dump(Bytes::new())).await.unwrap_err();
        assert!(matches!(slow, MomentError::SlowReader), "{slow}");
        assert_eq!(begun.elapsed(), TAKEN_WITHIN);
        drop(reader);
        let gone = pass(&to, Part::Dump(Bytes::new())).await.unwrap_err();
        assert!(matches!(gone, MomentError::Gone), "{gone}");
        assert_eq!(begun.elapsed(), TAKEN_WITHIN);
    }
}
