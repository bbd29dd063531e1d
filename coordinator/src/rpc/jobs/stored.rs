//! Streams of what ranks reported, log lines and metric values alike: everything stored, in order,
//! and with `follow` what comes, until nothing can come any more.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use marquee_domain::ids::{AttemptNumber, JobId, Rank};
use marquee_domain::job::AttemptStateName;
use marquee_proto::convert::BadField;
use marquee_store::ranks::RankRow;
use marquee_store::reports::Cursor;
use marquee_store::transitions::{self, JobHead};
use marquee_store::{Conn, StoreError, attempts, jobs, ranks};
use tokio::sync::mpsc;
use tonic::Status;

use super::Streamed;
use super::follow::{BUFFERED_MAX, News, Over};
use super::merge::Merge;
use crate::app::App;
use crate::lifecycle::LifecycleError;

/// Rows read at once over all ranks.
const ROWS_AT_ONCE: usize = 2_000;
/// Rows read at once of one rank, at least: a gang of thousands still makes headway.
const ROWS_OF_A_RANK_MIN: usize = 16;

/// Rows with their ranks, by rank and then in order.
pub(super) type Ranked<T> = Vec<(Rank, T)>;

/// A kind of rows.
pub(super) trait Rows: Send + Sync + 'static {
    type Row: Send;
    /// Place of a row within its report. Its default comes before every row.
    type Last: Clone + Default + Send + Sync;
    type Message: Send + 'static;

    /// The next rows after the cursors, at most `limit` of each rank, in order.
    fn read(
        &self,
        conn: &mut Conn,
        job: JobId,
        attempt: AttemptNumber,
        after: &[Cursor<Self::Last>],
        limit: u32,
    ) -> impl Future<Output = Result<Ranked<Self::Row>, StoreError>> + Send;

    /// The rows to begin with, where not all are wanted.
    fn read_tail(
        &self,
        conn: &mut Conn,
        job: JobId,
        attempt: AttemptNumber,
        ranks: &[Rank],
    ) -> impl Future<Output = Result<Option<Ranked<Self::Row>>, StoreError>> + Send;

    fn place(row: &Self::Row) -> (u64, Self::Last);
    fn at(row: &Self::Row) -> DateTime<Utc>;
    fn encode(attempt: AttemptNumber, rank: Rank, row: Self::Row) -> Self::Message;
}

/// Which rows are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) job: JobId,
    /// 0: the newest attempt, and with `follow` those after it.
    pub(super) attempt: u32,
    pub(super) rank: Option<Rank>,
    pub(super) follow: bool,
}

/// Starts the stream. A job, attempt or rank that is not there is refused at once.
pub(super) async fn start<R: Rows>(
    app: &App,
    rows: R,
    wanted: Wanted,
) -> Result<Streamed<R::Message>, Status> {
    // Before the first look: what is stored between the two is news then, and not missed.
    let news = News::new(app);
    let mut conn = app.db.read().await.map_err(LifecycleError::from)?;
    let job = jobs::get_job(&mut conn, wanted.job)
        .await
        .map_err(LifecycleError::from)?;
    if job.elements.is_some() {
        let why = format!(
            "job {0} is an array, whose elements do its work; name one of those that \"marquee jobs --array {0}\" lists",
            job.id
        );
        return Err(BadField::invalid("job_id", why).into());
    }
    if wanted.attempt > job.attempt {
        let why = format!(
            "the newest attempt of job {} is number {}",
            job.id, job.attempt
        );
        return Err(BadField::invalid("attempt", why).into());
    }
    if let Some(rank) = wanted.rank.filter(|rank| rank.0 >= job.ranks) {
        let why = format!(
            "job {} has ranks 0 to {}, not {rank}",
            job.id,
            job.ranks - 1
        );
        return Err(BadField::invalid("rank", why).into());
    }
    drop(conn);
    let (sender, receiver) = mpsc::channel(BUFFERED_MAX);
    let stream = Stream {
        app: app.clone(),
        rows,
        wanted,
        sender,
        news,
    };
    tokio::spawn(stream.run());
    Ok(Streamed::new(receiver))
}

struct Stream<R: Rows> {
    app: App,
    rows: R,
    wanted: Wanted,
    sender: mpsc::Sender<Result<R::Message, Status>>,
    news: News,
}

/// One attempt on its way to the reader.
struct Open<R: Rows> {
    number: AttemptNumber,
    merge: Merge<R::Row>,
    cursors: BTreeMap<Rank, (u64, R::Last)>,
    /// Whether the wanted beginning has been read.
    begun: bool,
}

/// What the stream does next.
enum Next {
    Wait,
    /// This attempt is through; go on with the one after it.
    Onward,
    End,
}

impl<R: Rows> Stream<R> {
    async fn run(mut self) {
        if let Err(over) = self.work().await {
            over.tell(&self.sender).await;
        }
    }

    async fn work(&mut self) -> Result<(), Over> {
        let mut open = None;
        loop {
            let looked = self.look(&mut open).await;
            let (rows, next) = match self.news.seen(looked) {
                Ok(Some(seen)) => seen,
                // Postgres is away: what is open goes on where it is.
                Ok(None) => (vec![], Some(Next::Wait)),
                Err(status) => return self.send(Err(status)).await,
            };
            for row in rows {
                self.send(Ok(row)).await?;
            }
            match next {
                None => {}
                Some(Next::Wait) => self.wait().await?,
                Some(Next::Onward) => open = None,
                Some(Next::End) => return Ok(()),
            }
        }
    }

    async fn send(&self, message: Result<R::Message, Status>) -> Result<(), Over> {
        self.sender
            .send(message)
            .await
            .map_err(|_| Over::ReaderGone)
    }

    async fn wait(&mut self) -> Result<(), Over> {
        let jobs = BTreeSet::from([self.wanted.job]);
        self.news.next(&jobs, &self.sender).await
    }

    /// Reads on. Returns rows to send, and what to do when all that is stored has been sent.
    async fn look(
        &self,
        open: &mut Option<Open<R>>,
    ) -> Result<(Vec<R::Message>, Option<Next>), LifecycleError> {
        let mut conn = self.app.db.read().await?;
        // The state is read before the rows: what has ended then has all its rows stored.
        let head = transitions::get_job_head(&mut conn, self.wanted.job).await?;
        let attempt = match (&open, self.wanted.attempt) {
            (Some(open), _) => open.number,
            (None, 0) if head.attempt == 0 => {
                let wait = self.wanted.follow && !head.state.is_final();
                return Ok((vec![], Some(if wait { Next::Wait } else { Next::End })));
            }
            (None, 0) => AttemptNumber(head.attempt),
            (None, wanted) => AttemptNumber(wanted),
        };
        let ranks = self.ranks(&mut conn, attempt).await?;
        let next = self.next(&mut conn, &head, attempt, &ranks).await?;
        let open = open.get_or_insert_with(|| Open::new(attempt, &ranks));
        self.read(&mut conn, open).await?;
        let mut rows = Vec::new();
        while let Some((rank, row)) = open.merge.pop() {
            rows.push(R::encode(attempt, rank, row));
        }
        Ok((rows, open.merge.is_done().then_some(next)))
    }

    async fn ranks(
        &self,
        conn: &mut Conn,
        attempt: AttemptNumber,
    ) -> Result<Vec<RankRow>, LifecycleError> {
        let mut ranks = ranks::list_ranks(conn, self.wanted.job, Some(attempt)).await?;
        ranks.retain(|rank| {
            self.wanted
                .rank
                .is_none_or(|wanted| wanted == rank.key.rank)
        });
        Ok(ranks)
    }

    /// What follows once everything stored of `attempt` has been sent.
    async fn next(
        &self,
        conn: &mut Conn,
        head: &JobHead,
        attempt: AttemptNumber,
        ranks: &[RankRow],
    ) -> Result<Next, LifecycleError> {
        if !self.wanted.follow {
            return Ok(Next::End);
        }
        let live = attempts::find_live_attempt(conn, self.wanted.job).await?;
        let lives = live.is_some_and(|live| match live.state {
            AttemptStateName::Assigned | AttemptStateName::Running => live.number == attempt,
            AttemptStateName::Succeeded
            | AttemptStateName::Failed
            | AttemptStateName::Cancelled
            | AttemptStateName::Interrupted => false,
        });
        let silent = ranks
            .iter()
            .all(|rank| rank.state.has_ended() || !rank.worker_online);
        Ok(if self.wanted.attempt == 0 && head.attempt > attempt.0 {
            Next::Onward
        // Something may still come: the attempt lives, or a rank of it has not said its end.
        } else if lives || !silent {
            Next::Wait
        } else if head.state.is_final() || self.wanted.attempt != 0 {
            Next::End
        } else {
            Next::Wait
        })
    }

    async fn read(&self, conn: &mut Conn, open: &mut Open<R>) -> Result<(), LifecycleError> {
        let job = self.wanted.job;
        if !open.begun {
            let all: Vec<Rank> = open.cursors.keys().copied().collect();
            if let Some(rows) = self.rows.read_tail(conn, job, open.number, &all).await? {
                // Behind the newest rows nothing is stored: with this limit every rank counts as
                // read up.
                open.add(&all, rows, usize::MAX);
                open.begun = true;
                return Ok(());
            }
            open.begun = true;
        }
        let hungry = open.merge.hungry();
        let after: Vec<Cursor<R::Last>> = hungry
            .iter()
            .filter_map(|rank| {
                let (sequence, last) = open.cursors.get(rank)?.clone();
                Some(Cursor {
                    rank: *rank,
                    sequence,
                    last,
                })
            })
            .collect();
        let limit = (ROWS_AT_ONCE / hungry.len().max(1)).max(ROWS_OF_A_RANK_MIN);
        let asked = u32::try_from(limit).unwrap_or(u32::MAX);
        let rows = self
            .rows
            .read(conn, job, open.number, &after, asked)
            .await?;
        open.add(&hungry, rows, limit);
        Ok(())
    }
}

impl<R: Rows> Open<R> {
    fn new(number: AttemptNumber, ranks: &[RankRow]) -> Self {
        let ranks = || ranks.iter().map(|rank| rank.key.rank);
        let cursors = ranks()
            .map(|rank| (rank, (0, R::Last::default())))
            .collect();
        Self {
            number,
            merge: Merge::new(ranks()),
            cursors,
            begun: false,
        }
    }

    fn add(&mut self, asked: &[Rank], rows: Ranked<R::Row>, limit: usize) {
        for (rank, row) in &rows {
            self.cursors.insert(*rank, R::place(row));
        }
        let timed = rows.into_iter().map(|(rank, row)| (rank, R::at(&row), row));
        self.merge.add(asked, timed, limit);
    }
}
