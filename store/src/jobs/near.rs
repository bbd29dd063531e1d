//! Lists of ids that one statement can look for at once. A plan that Postgres keeps finds them between the least and the
//! greatest: a training that began a month ago, listed beside the jobs of today, would cost a look at all between them.

use std::cmp::Reverse;

/// Ids that lie further apart are asked for one after the other.
const APART: i64 = 500;
/// Statements for one list, at most.
const GROUPS_MAX: usize = 24;

/// Groups of ids that lie near each other, the greatest ids first; cut where the gaps are widest.
pub(super) fn groups(mut ids: Vec<i64>) -> Vec<Vec<i64>> {
    ids.sort_unstable_by_key(|id| Reverse(*id));
    ids.dedup();
    let gap = |place: usize| ids[place - 1].saturating_sub(ids[place]);
    let mut cuts: Vec<usize> = (1..ids.len()).filter(|place| gap(*place) > APART).collect();
    cuts.sort_by_key(|place| Reverse(gap(*place)));
    cuts.truncate(GROUPS_MAX - 1);
    cuts.sort_unstable();
    let mut groups: Vec<Vec<i64>> = Vec::with_capacity(cuts.len() + 1);
    for cut in cuts.into_iter().rev() {
        groups.push(ids.split_off(cut));
    }
    groups.push(ids);
    groups.reverse();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_lie_apart_are_in_groups_of_their_own() {
        assert_eq!(groups(vec![]), [Vec::<i64>::new()]);
        assert_eq!(groups(vec![7, 3, 7, 500]), [[500, 7, 3]]);
        assert_eq!(
            groups(vec![3, 99_000, 40, 99_400, 50_000]),
            [vec![99_400, 99_000], vec![50_000], vec![40, 3]]
        );
        // Whatever somebody asks for.
        assert_eq!(groups(vec![i64::MIN, i64::MAX, 0]).len(), 3);
    }

    #[test]
    fn a_list_is_cut_where_the_gaps_are_widest() {
        let near = (0..100).map(|n| n * 600);
        let far = (2..=41).map(|n| n * 1_000_000);
        let cut = groups(near.chain(far).collect());
        assert_eq!(cut.len(), GROUPS_MAX);
        assert_eq!(cut.last().map(Vec::len), Some(100), "{cut:?}");
        let all: Vec<i64> = cut.concat();
        assert_eq!(all.len(), 140);
        assert!(all.is_sorted_by(|a, b| a > b));
    }
}
