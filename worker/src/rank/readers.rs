//! The readers of what a job can reach, for whoever tries them on whatever bytes (`marquee-catalogue fuzz`).
//!
//! Each says in a word or two what became of the bytes, the same for bytes that are taken alike, and panics where
//! something is let through that must not be.

use std::fs;
use std::io;
use std::path::Path;

use chrono::{DateTime, Utc};
use marquee_domain::RankKey;
use marquee_domain::child::ChildEvent;
use marquee_domain::job::RankState;
use marquee_proto::v1;
use marquee_proto::v1::report::Body;

use super::events;
use super::lines::Line;
use super::pump::Cursor;
use super::spool::Spool;
use super::spool::frame::{self, Head};

/// Reports read of one spool: as many as one message brings.
const READ_COUNT: usize = 1_024;
const READ_BYTES: usize = 1024 * 1024;

/// How a line on a child's channel was taken.
#[must_use]
pub fn read_any_event(bytes: &[u8]) -> String {
    let line = Line {
        bytes: bytes.to_vec(),
        cut: false,
    };
    match events::read(&line) {
        Ok(None) => "of a later version".to_owned(),
        Ok(Some(event)) => kind_of(&event).to_owned(),
        // Without what the line itself has put there.
        Err(why) => why.split(['"', ':']).next().unwrap_or_default().to_owned(),
    }
}

fn kind_of(event: &ChildEvent) -> &'static str {
    match event {
        ChildEvent::Progress { .. } => "progress",
        ChildEvent::Metrics { .. } => "metrics",
        ChildEvent::Checkpoint { .. } => "checkpoint",
        ChildEvent::Regrouped { .. } => "regrouped",
        ChildEvent::Finished { .. } => "finished",
        ChildEvent::Failed { .. } => "failed",
    }
}

/// How a spool was taken that holds these bytes: as they are, and as the payload of a batch whose checksum is right,
/// behind one that is whole. `file` is written over.
pub fn read_any_spool(bytes: &[u8], file: &Path) -> io::Result<String> {
    let mut wrapped = sample(1, RankState::Running)?;
    wrapped.extend(frame::framed(bytes)?);
    Ok(format!(
        "{} / {}",
        opened(bytes, file)?,
        opened(&wrapped, file)?
    ))
}

fn opened(bytes: &[u8], file: &Path) -> io::Result<String> {
    fs::write(file, bytes)?;
    let mut spool = Spool::open(file, RankKey::new(1, 1, 0))?;
    let (acked, last) = (spool.acked(), spool.last_sequence());
    let reports = spool.read(
        acked + 1,
        READ_COUNT,
        READ_BYTES,
        DateTime::<Utc>::UNIX_EPOCH,
    );
    assert!(reports.len() <= READ_COUNT);
    // What goes out is in order, whatever was in the file.
    assert!(reports.is_sorted_by(|one, next| one.sequence < next.sequence));
    assert!(reports.last().is_none_or(|report| report.sequence <= last));
    let cursor = spool.cursor().clone();
    spool.append(DateTime::<Utc>::UNIX_EPOCH, vec![started()], cursor)?;
    assert_eq!(spool.last_sequence(), last + 1);
    spool.ack(spool.last_sequence());
    Ok(format!(
        "{} reports {}",
        reports.len().min(3),
        spool.state().as_str()
    ))
}

/// Spools as ranks leave them.
pub fn spool_samples() -> io::Result<Vec<Vec<u8>>> {
    let mut two = sample(1, RankState::Running)?;
    two.extend(sample(2, RankState::Finished)?);
    let mut old = two.clone();
    old.drain(..4);
    Ok(vec![sample(1, RankState::Prepared)?, two, old])
}

fn started() -> Body {
    Body::Started(v1::RankStarted { pid: 1 })
}

fn sample(sequence: u64, state: RankState) -> io::Result<Vec<u8>> {
    let head = Head {
        last_sequence: sequence,
        state,
        cursor: Cursor::default(),
    };
    let report = v1::Report {
        job_id: 1,
        attempt: 1,
        sequence,
        body: Some(started()),
        ..v1::Report::default()
    };
    let reports = vec![report];
    frame::encode(&head, v1::Reports { reports })
}
