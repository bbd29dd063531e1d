//! What a gang says when it goes on without some of its ranks.
//!
//! Invariant: the first such report that is stored decides who is lost. Where a network was cut in
//! two, both halves may believe that they go on; of ranks that are lost nothing is taken, so that one
//! half alone can save checkpoints and commit.

use chrono::{DateTime, Utc};
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::Rank;
use marquee_domain::report::WentOn;
use marquee_proto::v1;
use marquee_store::ranks::{self, RankKey, RankRow};
use marquee_store::{StoreError, Tx};
use marquee_store::{events, jobs};

use super::reconcile::LOST;
use crate::lifecycle::Result;

/// Marks the ranks as lost that `reports` of rank `key` left behind. The caller holds the lock of the
/// job's pipeline where there are any. True if a rank was lost.
pub(super) async fn settle(
    tx: &mut Tx,
    key: RankKey,
    reports: &[v1::RankRegrouped],
    now: DateTime<Utc>,
) -> Result<bool> {
    let mut changed = false;
    for report in reports {
        // Asked for each report: what is stored says how few will do, not the gang itself.
        let min_ranks = match jobs::get_job_spec(tx, key.job).await {
            Ok(spec) => spec.resources.min_ranks,
            // Nothing says that fewer ranks will do: the gang ends as one that needs them all.
            Err(StoreError::Unreadable { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let rows = ranks::list_ranks(tx, key.job, Some(key.attempt)).await?;
        if !is_credible(report, key.rank, &rows, min_ranks) {
            tracing::warn!(job = %key.job, rank = %key.rank, ranks = ?report.ranks, "a list of ranks that go on makes no sense");
            continue;
        }
        let failure = Failure {
            class: FailureClass::LostWorker,
            message: LOST.to_owned(),
        };
        for row in rows
            .iter()
            .filter(|row| !report.ranks.contains(&row.key.rank.0))
        {
            changed |= ranks::mark_rank_lost(tx, row.key, &failure, now).await?;
        }
        // Each that goes on says so; one line is enough.
        if report.ranks.first() == Some(&key.rank.0) {
            let went_on = WentOn {
                step: report.step,
                ranks: u32::try_from(report.ranks.len()).unwrap_or(u32::MAX),
                of: u32::try_from(rows.len()).unwrap_or(u32::MAX),
                steps_lost: report.steps_lost,
                seconds: report.seconds,
            };
            let text = went_on.words();
            tracing::info!(job = %key.job, attempt = %key.attempt, "{text}");
            events::insert_event(tx, key.job, key.attempt.0, &text, now).await?;
        }
    }
    Ok(changed)
}

/// Whether these ranks can go on: the one that says so is among them, all are ranks of the attempt,
/// and as many as the job needs.
fn is_credible(
    report: &v1::RankRegrouped,
    me: Rank,
    rows: &[RankRow],
    min_ranks: Option<u32>,
) -> bool {
    let is_known = |rank: &u32| rows.iter().any(|row| row.key.rank.0 == *rank);
    let ascends = report.ranks.windows(2).all(|pair| pair[0] < pair[1]);
    let suffices = min_ranks
        .is_some_and(|min| report.ranks.len() >= usize::try_from(min).unwrap_or(usize::MAX));
    ascends && suffices && report.ranks.contains(&me.0) && report.ranks.iter().all(is_known)
}
