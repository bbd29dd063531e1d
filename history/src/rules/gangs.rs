//! Rule 7: a gang is granted whole and starts together.

use marquee_domain::rank::RankKey;

use crate::checker::Line;
use crate::finding::Rule;

/// 7a.
pub(crate) fn granted_whole(line: &mut Line<'_>, key: RankKey) {
    let live = line.state.live.get(&key.job);
    let live = live.filter(|live| live.number == key.attempt);
    let next = live.map_or(0, |live| live.ranks.len());
    let started = live.is_some_and(|live| live.started);
    if usize::try_from(key.rank.0) != Ok(next) || started {
        let text = match started {
            true => "it was granted after its attempt had started".to_owned(),
            false => format!("rank {} was granted where rank {next} is next", key.rank),
        };
        line.broken(Rule::GangWhole, key, text);
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
