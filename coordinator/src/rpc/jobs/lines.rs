//! The stream of log lines.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use marquee_domain::ids::{AttemptNumber, JobId, Rank};
use marquee_proto::convert::{BadField, timestamp};
use marquee_proto::v1;
use marquee_proto::v1::log_line::Stream;
use marquee_store::Conn;
use marquee_store::StoreError;
use marquee_store::reports::{self, Cursor, LogLine, LogStream};
use tonic::Status;

use super::Streamed;
use super::stored::{self, Rows, Wanted};
use crate::app::App;

/// Lines that `tail` may ask for; more are read from the beginning.
const TAIL_MAX: u32 = 100_000;

pub(super) async fn start(
    app: &App,
    request: v1::LogsRequest,
) -> Result<Streamed<v1::LogLine>, Status> {
    let v1::LogsRequest {
        job_id,
        attempt,
        rank,
        follow,
        tail,
    } = request;
    if tail > TAIL_MAX {
        let why = format!("{tail} lines, at most {TAIL_MAX}; 0 gives them all");
        return Err(BadField::invalid("tail", why).into());
    }
    let wanted = Wanted {
        job: JobId(job_id),
        attempt,
        rank: rank.map(Rank),
        follow,
    };
    stored::start(app, Lines { tail }, wanted).await
}

struct Lines {
    /// Only the last so many; 0: all.
    tail: u32,
}

impl Rows for Lines {
    type Row = LogLine;
    type Last = u32;
    type Message = v1::LogLine;

    async fn read(
        &self,
        conn: &mut Conn,
        job: JobId,
        attempt: AttemptNumber,
        after: &[Cursor<u32>],
        limit: u32,
    ) -> Result<Vec<(Rank, LogLine)>, StoreError> {
        reports::list_log_lines(conn, job, attempt, after, limit).await
    }

    async fn read_tail(
        &self,
        conn: &mut Conn,
        job: JobId,
        attempt: AttemptNumber,
        ranks: &[Rank],
    ) -> Result<Option<Vec<(Rank, LogLine)>>, StoreError> {
        if self.tail == 0 {
            return Ok(None);
        }
        let lines = reports::list_last_log_lines(conn, job, attempt, ranks, self.tail).await?;
        Ok(Some(last_of_all(lines, self.tail as usize)))
    }

    fn place(row: &LogLine) -> (u64, u32) {
        (row.sequence, row.line)
    }

    fn at(row: &LogLine) -> DateTime<Utc> {
        row.at
    }

    fn encode(attempt: AttemptNumber, rank: Rank, row: LogLine) -> v1::LogLine {
        let stream = match row.stream {
            LogStream::Stdout => Stream::Stdout,
            LogStream::Stderr => Stream::Stderr,
        };
        v1::LogLine {
            attempt: attempt.0,
            rank: rank.0,
            stream: stream.into(),
            at: Some(timestamp(row.at)),
            text: row.text,
        }
    }
}

/// The last `count` lines of all ranks together; of each rank its last ones, in its own order.
/// `lines` come by rank, in order.
fn last_of_all(lines: Vec<(Rank, LogLine)>, count: usize) -> Vec<(Rank, LogLine)> {
    let mut by_time: Vec<(DateTime<Utc>, Rank)> =
        lines.iter().map(|(rank, line)| (line.at, *rank)).collect();
    by_time.sort_unstable();
    let mut surplus: BTreeMap<Rank, usize> = BTreeMap::new();
    for (_, rank) in by_time.iter().take(lines.len().saturating_sub(count)) {
        *surplus.entry(*rank).or_default() += 1;
    }
    let mut kept = lines;
    kept.retain(|(rank, _)| match surplus.get_mut(rank) {
        Some(left) if *left > 0 => {
            *left -= 1;
            false
        }
        Some(_) | None => true,
    });
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(rank: u32, seconds: i64, text: &str) -> (Rank, LogLine) {
        let at = DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap();
        let stream = LogStream::Stdout;
        (
            Rank(rank),
            LogLine {
                sequence: 1,
                line: 0,
                stream,
                text: text.into(),
                at,
            },
        )
    }

    #[test]
    fn the_tail_is_the_last_lines_of_all_ranks_together() {
        let lines = vec![
            line(0, 1, "a1"),
            line(0, 5, "a5"),
            line(0, 5, "a6"),
            line(1, 4, "b4"),
        ];
        let texts = |count| {
            let kept = last_of_all(lines.clone(), count);
            kept.into_iter()
                .map(|(_, line)| line.text)
                .collect::<Vec<_>>()
        };
        assert_eq!(texts(1), ["a6"]);
        assert_eq!(texts(3), ["a5", "a6", "b4"]);
        assert_eq!(texts(9), ["a1", "a5", "a6", "b4"]);
    }
}
