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

#[cfg(test)]
mod tests {
    use marquee_domain::ids::WorkerId;
    use marquee_domain::job::RankState;
    use uuid::Uuid;

    use super::*;

    fn rows(count: u32) -> Vec<RankRow> {
        let row = |rank| RankRow {
            key: super::super::hello::key(1, 1, rank),
            worker: WorkerId(Uuid::nil()),
            worker_name: String::new(),
            worker_online: true,
            devices: Vec::new(),
            state: RankState::Running,
            progress: None,
            summary: None,
            failure: None,
            ended_at: None,
            lost_at: None,
        };
        (0..count).map(row).collect()
    }

    #[test]
    fn a_gang_goes_on_only_with_ranks_that_are_its_own_and_enough_of_them() {
        type Case<'a> = (&'a [u32], u32, Option<u32>, bool, &'a str);
        let cases: &[Case<'_>] = &[
            (&[0, 1, 3], 1, Some(2), true, "one was lost"),
            (&[0, 1, 2, 3], 0, Some(4), true, "none was lost after all"),
            (&[3], 3, Some(1), true, "one alone, where one will do"),
            (&[0, 1], 0, Some(3), false, "too few"),
            (&[0, 1, 3], 1, None, false, "the job needs all of its ranks"),
            (
                &[0, 1, 3],
                2,
                Some(1),
                false,
                "who says so is not among them",
            ),
            (&[], 0, Some(0), false, "nobody goes on"),
            (&[0, 4], 0, Some(1), false, "there is no rank 4"),
            (&[0, u32::MAX], 0, Some(1), false, "far from it"),
            (&[1, 0], 0, Some(1), false, "not ascending"),
            (
                &[0, 0, 1],
                0,
                Some(3),
                false,
                "one counted twice makes no third",
            ),
        ];
        for (ranks, me, min_ranks, expected, why) in cases {
            let report = v1::RankRegrouped {
                ranks: ranks.to_vec(),
                ..v1::RankRegrouped::default()
            };
            let credible = is_credible(&report, Rank(*me), &rows(4), *min_ranks);
            assert_eq!(credible, *expected, "{why}: {ranks:?}");
        }
        let nobody = v1::RankRegrouped {
            ranks: vec![0],
            ..v1::RankRegrouped::default()
        };
        assert!(!is_credible(&nobody, Rank(0), &[], Some(1)));
    }
}
