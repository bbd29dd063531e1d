//! Ranks that do not get on, as their workers say with each heartbeat, and who of a gang hangs while the others
//! only wait: said once in the job's history, when all of the gang have been looked at.
//!
//! Invariant: nothing here is stored. Workers say it anew with each heartbeat, so that after a restart all of it is
//! there again within two seconds. Not here: what follows (`lifecycle::verdict`).

use std::collections::BTreeMap;
use std::time::Duration;

use marquee_domain::ids::{AttemptNumber, JobId};
use marquee_domain::job::{AttemptStateName, RankState};
use marquee_proto::v1;
use marquee_store::ranks::{self, RankRow};
use marquee_store::{attempts, events};

use crate::app::App;
use crate::lifecycle::Result;

/// How long the other ranks of a gang may take to be looked at, once one of it is known to hang.
const ALL_LOOKED_AT: Duration = Duration::from_secs(8);

/// Says in a job's history that its attempt hangs, or that it goes on.
pub(super) async fn look(app: &App, (job, attempt): (JobId, AttemptNumber)) -> Result<()> {
    let mut conn = app.db.read().await?;
    let live = attempts::find_live_attempt(&mut conn, job).await?;
    let is_it = |live: &attempts::Attempt| {
        live.number == attempt && live.state == AttemptStateName::Running
    };
    // It ended, or another one took its place, before it could be said.
    if !live.as_ref().is_some_and(is_it) {
        app.sessions.hangs.forget((job, attempt));
        return Ok(());
    }
    let rows = ranks::list_ranks(&mut conn, job, Some(attempt)).await?;
    drop(conn);
    let members: Vec<(RankRow, Option<v1::Stall>)> = rows
        .into_iter()
        .filter(|row| row.lost_at.is_none() && row.state == RankState::Running)
        .map(|row| {
            let stall = app.sessions.hangs.stall(row.worker, row.key);
            (row, stall)
        })
        .collect();
    let text = {
        let mut known = app.sessions.hangs.lock();
        let Some(told) = known.attempts.get_mut(&(job, attempt)) else {
            return Ok(());
        };
        let any = members.iter().any(|(_, stall)| stall.is_some());
        let all = members.iter().all(|(_, stall)| stall.is_some());
        let only_waits = members
            .iter()
            .all(|(_, stall)| stall.as_ref().is_none_or(only_waits_for_peers));
        match (&told.text, any) {
            (None, false) => {
                known.attempts.remove(&(job, attempt));
                return Ok(());
            }
            // Whom those that are known only wait for may be in its first steps, which take longer.
            (None, true) if !all && only_waits => return Ok(()),
            // Those that wait for it are looked at within the same seconds.
            (None, true) if !all && told.since.elapsed() < ALL_LOOKED_AT => return Ok(()),
            (None, true) => {
                let text = diagnosis(&members);
                told.text = Some(text.clone());
                text
            }
            (Some(_), true) => return Ok(()),
            (Some(_), false) => {
                let after = told.since.elapsed().as_secs();
                known.attempts.remove(&(job, attempt));
                format!("it goes on: no rank hangs any more, after {after} s")
            }
        }
    };
    tracing::warn!(%job, %attempt, text, "about progress");
    let now = app.clock.now();
    let mut tx = app.db.write("hang").await?;
    events::insert_event(&mut tx, job, attempt.0, &text, now).await?;
    tx.commit().await?;
    app.jobs_changed(&[job]);
    Ok(())
}

fn only_waits_for_peers(stall: &v1::Stall) -> bool {
    stall.waits_for_peers && !stall.is_stopped
}

/// Who hangs and who only waits: "hung: rank 1 on gpu-2 is stopped by a signal (state T) at step 12 since 46 s;
/// ranks 0 and 2 wait in all-reduce".
fn diagnosis(members: &[(RankRow, Option<v1::Stall>)]) -> String {
    let known = || {
        let known = members.iter();
        known.filter_map(|(row, stall)| Some((row, stall.as_ref()?)))
    };
    let waits = only_waits_for_peers;
    let hung: Vec<String> = known()
        .filter(|(_, stall)| !waits(stall))
        .map(|(row, stall)| one(row, stall))
        .collect();
    let mut waiting: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (row, stall) in known().filter(|(_, stall)| waits(stall)) {
        let ranks = waiting.entry(&stall.phase).or_default();
        ranks.push(row.key.rank.to_string());
    }
    let mut parts = hung;
    let nobody_hangs = parts.is_empty();
    parts.extend(waiting.into_iter().map(|(phase, ranks)| match &ranks[..] {
        [rank] => format!("rank {rank} waits in {phase}"),
        ranks => format!("ranks {} wait in {phase}", listed(ranks)),
    }));
    let silent = members.iter().filter(|(_, stall)| stall.is_none());
    let silent: Vec<String> = silent.map(|(row, _)| row.key.rank.to_string()).collect();
    match &silent[..] {
        [] if nobody_hangs => {
            parts.push("each waits for the others: the exchange itself hangs, look at the network between the hosts".into());
        }
        [] => {}
        [rank] => parts.push(format!("rank {rank} is not known to hang")),
        ranks => parts.push(format!("ranks {} are not known to hang", listed(ranks))),
    }
    format!("hung: {}", parts.join("; "))
}

fn one(row: &RankRow, stall: &v1::Stall) -> String {
    let (rank, worker) = (row.key.rank, &row.worker_name);
    let does = if stall.is_stopped {
        "is stopped by a signal (state T)".to_owned()
    } else if stall.phase.is_empty() {
        "makes no progress".to_owned()
    } else {
        format!("makes no progress in {}", stall.phase)
    };
    let step = stall.step.map(|step| format!(" at step {step}"));
    let process = match (stall.is_stopped, &stall.process) {
        (false, process) if !process.is_empty() => format!(" (its main thread {process})"),
        (_, _) => String::new(),
    };
    format!(
        "rank {rank} on {worker} {does}{} since {} s{process}",
        step.unwrap_or_default(),
        stall.idle_ms / 1_000,
    )
}

/// "0, 2 and 3".
fn listed(ranks: &[String]) -> String {
    match ranks {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use marquee_domain::ids::{Rank, WorkerId};
    use marquee_store::ranks::RankKey;
    use uuid::Uuid;

    use super::*;

    fn row(rank: u32) -> RankRow {
        RankRow {
            key: RankKey {
                job: JobId(7),
                attempt: AttemptNumber(1),
                rank: Rank(rank),
            },
            worker: WorkerId(Uuid::from_u128(u128::from(rank))),
            worker_name: format!("gpu-{rank}"),
            worker_online: true,
            devices: vec![],
            state: RankState::Running,
            progress: None,
            summary: None,
            failure: None,
            ended_at: None,
            lost_at: None,
        }
    }

    fn stopped() -> Option<v1::Stall> {
        Some(v1::Stall {
            idle_ms: 46_700,
            step: Some(12),
            phase: "forward".into(),
            is_stopped: true,
            waits_for_peers: false,
            process: "is stopped by a signal (state T)".into(),
        })
    }

    fn waiting() -> Option<v1::Stall> {
        Some(v1::Stall {
            idle_ms: 45_100,
            step: Some(12),
            phase: "all-reduce".into(),
            waits_for_peers: true,
            ..v1::Stall::default()
        })
    }

    #[test]
    fn who_hangs_is_told_from_who_only_waits() {
        let gang = [
            (row(0), waiting()),
            (row(1), stopped()),
            (row(2), waiting()),
        ];
        assert_eq!(
            diagnosis(&gang),
            "hung: rank 1 on gpu-1 is stopped by a signal (state T) at step 12 since 46 s; ranks 0 and 2 wait in \
             all-reduce"
        );
        let all_wait = [(row(0), waiting()), (row(1), waiting())];
        assert_eq!(
            diagnosis(&all_wait),
            "hung: ranks 0 and 1 wait in all-reduce; each waits for the others: the exchange itself hangs, look at the \
             network between the hosts"
        );
        let alone = v1::Stall {
            idle_ms: 50_000,
            process: "sleeps in futex_wait".into(),
            ..v1::Stall::default()
        };
        let late = [(row(0), Some(alone)), (row(1), None)];
        assert_eq!(
            diagnosis(&late),
            "hung: rank 0 on gpu-0 makes no progress since 50 s (its main thread sleeps in futex_wait); rank 1 is not \
             known to hang"
        );
    }
}
