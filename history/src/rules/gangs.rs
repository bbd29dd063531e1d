//! Rule 7: a gang is granted whole and starts together.

use marquee_domain::ids::{AttemptNumber, JobId};
use marquee_domain::rank::RankKey;

use crate::finding::Rule;
use crate::line::Line;

/// 7a: ranks of one transaction come in any order, and all of them before anything else of their attempt.
pub(crate) fn granted_before_the_rest(line: &mut Line<'_>, key: RankKey) {
    let live = line.state.live.get(&key.job);
    if live.is_some_and(|live| live.number == key.attempt && live.started) {
        let text = "it was granted after its attempt had started".to_owned();
        line.broken(Rule::GangWhole, key, text);
    }
}

/// 7a, once something else is said of the attempt.
pub(crate) fn granted_whole(line: &mut Line<'_>, job: JobId, attempt: AttemptNumber) {
    let live = line.state.live.get(&job);
    let Some(live) = live.filter(|live| live.number == attempt) else {
        return;
    };
    let missing = (0..)
        .zip(live.ranks.keys())
        // Numbered from 0 on without gap, each rank stands at the place of its number.
        .find(|(place, rank)| place != *rank);
    if let Some((rank, _)) = missing {
        let text = format!("its rank {rank} was not granted, and later ones were");
        line.broken(Rule::GangWhole, (job, attempt), text);
    }
}

/// 7b.
pub(crate) fn start_together(line: &mut Line<'_>, key: RankKey) {
    let live = line.state.live.get(&key.job);
    let early = live
        .is_some_and(|live| live.number == key.attempt && live.ranks.len() > 1 && !live.started);
    if early {
        let text = "it started before its attempt did".to_owned();
        line.broken(Rule::GangTogether, key, text);
    }
}
