//! The stream of metric values.

use chrono::{DateTime, Utc};
use marquee_domain::ids::{AttemptNumber, JobId, Rank};
use marquee_domain::limits::METRIC_NAME_MAX_BYTES;
use marquee_proto::convert::{self, BadField, timestamp};
use marquee_proto::v1;
use marquee_store::Conn;
use marquee_store::StoreError;
use marquee_store::reports::{self, Cursor, Metric};
use tonic::Status;

use super::Streamed;
use super::stored::{self, Rows, Wanted};
use crate::app::App;

/// Names that may be asked for at once.
const NAMES_MAX: usize = 1_000;

pub(super) async fn start(
    app: &App,
    request: v1::MetricsRequest,
) -> Result<Streamed<v1::MetricPoint>, Status> {
    let v1::MetricsRequest {
        job_id,
        attempt,
        rank,
        names,
        follow,
    } = request;
    let wanted = Wanted {
        job: JobId(job_id),
        attempt,
        rank: rank.map(Rank),
        follow,
    };
    if names.len() > NAMES_MAX {
        let why = format!("{} names, at most {NAMES_MAX}; none gives all", names.len());
        return Err(BadField::invalid("names", why).into());
    }
    let names: Result<Vec<String>, BadField> = names
        .into_iter()
        .map(|name| convert::text("names", name, METRIC_NAME_MAX_BYTES))
        .collect();
    let names = Some(names?).filter(|names| !names.is_empty());
    stored::start(app, Points { names }, wanted).await
}

struct Points {
    /// None: all.
    names: Option<Vec<String>>,
}

impl Rows for Points {
    type Row = Metric;
    type Last = String;
    type Message = v1::MetricPoint;

    async fn read(
        &self,
        conn: &mut Conn,
        job: JobId,
        attempt: AttemptNumber,
        after: &[Cursor<String>],
        limit: u32,
    ) -> Result<Vec<(Rank, Metric)>, StoreError> {
        reports::list_metrics(conn, job, attempt, after, self.names.as_deref(), limit).await
    }

    async fn read_tail(
        &self,
        _: &mut Conn,
        _: JobId,
        _: AttemptNumber,
        _: &[Rank],
    ) -> Result<Option<Vec<(Rank, Metric)>>, StoreError> {
        // Only logs are read from their end; metrics have no such request.
        Ok(None)
    }

    fn place(row: &Metric) -> (u64, String) {
        (row.sequence, row.name.clone())
    }

    fn at(row: &Metric) -> DateTime<Utc> {
        row.at
    }

    fn encode(attempt: AttemptNumber, rank: Rank, row: Metric) -> v1::MetricPoint {
        v1::MetricPoint {
            attempt: attempt.0,
            rank: rank.0,
            name: row.name,
            step: row.step,
            value: row.value,
            at: Some(timestamp(row.at)),
        }
    }
}
