//! Rule 5: reports are stored once each.

use marquee_domain::rank::RankKey;

use crate::finding::Rule;
use crate::line::{Findings, Line};
use crate::stored::StoredRank;

/// 5a, where the history has each storing.
pub(crate) fn follow_each_other(line: &mut Line<'_>, key: RankKey, from: u64, to: u64) {
    let last = line.state.reported.get(&key).copied().unwrap_or(0);
    if from != last + 1 || to < from {
        let text = format!("reports {from} to {to} were stored after report {last}");
        line.broken(Rule::ReportsOnce, key, text);
    }
}

/// 5a, of what is stored: a row of a report that does not count as stored would come a second time.
pub(crate) fn no_row_without_its_number(rank: &StoredRank, findings: &mut Findings) {
    if rank.highest_row > rank.last_sequence {
        let text = format!(
            "a row of report {} is stored, and the newest stored report is {}",
            rank.highest_row, rank.last_sequence
        );
        findings.add(Rule::ReportsOnce, None, rank.key, text);
    }
}
