//! The stream of log lines.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use marquee_domain::ids::{AttemptNumber, JobId, Rank};
use marquee_proto::convert::{BadField, timestamp};
use marquee_proto::v1;
use marquee_proto::v1::log_line::Stream;
use marquee_store::Conn;
use marquee_store::StoreError;
use marquee_store::reports::{self, Cursor, LineEnd, LogLine, LogStream};
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

/// A stored line, and how many are lost beside it.
struct Told {
    line: LogLine,
    lost_before: u32,
    lost_after: u32,
}

impl Rows for Lines {
    type Row = Told;
    type Last = LineEnd;
    type Message = v1::LogLine;

    async fn read(
        &self,
        conn: &mut Conn,
        job: JobId,
        attempt: AttemptNumber,
        after: &[Cursor<LineEnd>],
        limit: u32,
    ) -> Result<Vec<(Rank, Told)>, StoreError> {
        let lines = reports::list_log_lines(conn, job, attempt, after, limit).await?;
        Ok(count_lost(lines, after, limit as usize))
    }

    async fn read_tail(
        &self,
        conn: &mut Conn,
        job: JobId,
        attempt: AttemptNumber,
        ranks: &[Rank],
    ) -> Result<Option<Vec<(Rank, Told)>>, StoreError> {
        if self.tail == 0 {
            return Ok(None);
        }
        let lines = reports::list_last_log_lines(conn, job, attempt, ranks, self.tail).await?;
        let lines = last_of_all(lines, self.tail as usize);
        // What comes before the first of each is not asked for.
        Ok(Some(count_lost(lines, &[], usize::MAX)))
    }

    fn place(row: &Told) -> (u64, LineEnd) {
        let LogLine { line, left, .. } = row.line;
        // What was told as lost after it is not to be told again before the next.
        let left = left - row.lost_after.min(left);
        (row.line.sequence, LineEnd { line, left })
    }

    fn at(row: &Told) -> DateTime<Utc> {
        row.line.at
    }

    fn encode(attempt: AttemptNumber, rank: Rank, told: Told) -> v1::LogLine {
        let Told {
            line: row,
            lost_before,
            lost_after,
        } = told;
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
            lost_before,
            lost_after,
            damaged: row.is_damaged,
        }
    }
}

/// How many lines are missing beside each, as the lines of each report are counted. `lines` come by rank, in order,
/// at most `limit` a rank; `after` says what each rank's reader has read before. A report that is lost with all of its
/// lines is not seen.
fn count_lost(
    lines: Vec<(Rank, LogLine)>,
    after: &[Cursor<LineEnd>],
    limit: usize,
) -> Vec<(Rank, Told)> {
    let mut read: BTreeMap<Rank, usize> = BTreeMap::new();
    for (rank, _) in &lines {
        *read.entry(*rank).or_default() += 1;
    }
    let mut places: BTreeMap<Rank, (u64, LineEnd)> = after
        .iter()
        .map(|cursor| (cursor.rank, (cursor.sequence, cursor.last)))
        .collect();
    let mut told = Vec::with_capacity(lines.len());
    let mut lines = lines.into_iter().peekable();
    while let Some((rank, line)) = lines.next() {
        let lost_before = match places.get(&rank) {
            Some((sequence, end)) if *sequence == line.sequence => {
                line.line.saturating_sub(end.line + 1)
            }
            Some((_, end)) => end.left.saturating_add(line.line),
            None => 0,
        };
        let is_last = lines.peek().is_none_or(|(next, _)| *next != rank);
        // The lines of a report are stored together: of one that is there the others are, or are lost.
        let is_all = read.get(&rank).is_some_and(|count| *count < limit);
        let lost_after = if is_last && is_all { line.left } else { 0 };
        let end = LineEnd {
            line: line.line,
            left: line.left,
        };
        places.insert(rank, (line.sequence, end));
        let line = Told {
            line,
            lost_before,
            lost_after,
        };
        told.push((rank, line));
    }
    told
}

/// The last `count` lines of all ranks together; of each rank its last ones, in its own order.
/// `lines` come by rank, in order.
fn last_of_all(lines: Vec<(Rank, LogLine)>, count: usize) -> Vec<(Rank, LogLine)> {
    let mut by_time: Vec<(DateTime<Utc>, Rank)> =
        lines.iter().map(|(rank, line)| (line.at, *rank)).collect();
    by_time.sort_unstable();
    let mut surplus: BTreeMap<Rank, usize> = BTreeMap::new();
    // Counted by time, taken away by rank: which lines of a rank go is decided by its own order,
    // whatever its clock says.
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
                left: 0,
                stream,
                text: text.into(),
                at,
                is_damaged: false,
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

    #[test]
    fn what_is_missing_is_counted_once_wherever_it_was() {
        // Two reports of five lines each and one of one.
        let all: Vec<(u64, u32, u32)> = (1..=2)
            .flat_map(|sequence| (0..5).map(move |n| (sequence, n, 4 - n)))
            .chain([(3, 0, 0)])
            .collect();
        let lost = |missing: &[(u64, u32)], page: usize| -> (u32, usize) {
            let stored = all
                .iter()
                .filter(|(sequence, n, _)| !missing.contains(&(*sequence, *n)));
            let stored: Vec<_> = stored
                .map(|(sequence, n, left)| {
                    let (rank, line) = line(0, 0, "x");
                    let (sequence, left) = (*sequence, *left);
                    let line = LogLine {
                        sequence,
                        line: *n,
                        left,
                        ..line
                    };
                    (rank, line)
                })
                .collect();
            let (mut sum, mut count) = (0, 0);
            let mut cursor = Cursor {
                rank: Rank(0),
                sequence: 0,
                last: LineEnd::default(),
            };
            loop {
                let from = (cursor.sequence, cursor.last.line);
                let next = stored
                    .iter()
                    .filter(|(_, line)| cursor.sequence == 0 || (line.sequence, line.line) > from);
                let next: Vec<_> = next.take(page).cloned().collect();
                let is_end = next.is_empty();
                for (_, told) in count_lost(next, std::slice::from_ref(&cursor), page) {
                    sum += told.lost_before + told.lost_after;
                    count += 1;
                    (cursor.sequence, cursor.last) = Lines::place(&told);
                }
                if is_end {
                    return (sum, count);
                }
            }
        };
        for page in 1..=12 {
            assert_eq!(lost(&[], page), (0, 11), "{page}");
            assert_eq!(lost(&[(1, 0)], page), (1, 10), "{page}");
            assert_eq!(lost(&[(1, 2), (1, 3)], page), (2, 9), "{page}");
            assert_eq!(lost(&[(1, 4), (2, 0), (2, 1)], page), (3, 8), "{page}");
        }
        // The end of the last one of all, where its page says that nothing follows.
        assert_eq!(lost(&[(2, 3), (2, 4), (3, 0)], 12), (2, 8));
    }
}
