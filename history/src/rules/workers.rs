//! Rules 8 and 3d: who is judged lost, and by whom.

use chrono::{DateTime, Utc};
use marquee_domain::ids::WorkerId;

use crate::event::{Event, What};
use crate::finding::{Rule, Subject};
use crate::line::Line;

/// 3d.
pub(crate) fn epochs_grow(line: &mut Line<'_>, event: &Event) {
    let newest = line.state.epoch;
    // A coordinator without an election writes no epoch, and None is less than any.
    if event.epoch.is_some() && event.epoch < newest {
        let text = format!(
            "epoch {} wrote after epoch {}",
            shown(event.epoch),
            shown(newest)
        );
        line.broken(Rule::EpochsGrow, Subject::default(), text);
    }
    if let What::Leader { epoch } = event.what
        && newest.is_some_and(|newest| epoch <= newest)
    {
        let text = format!("epoch {epoch} began after epoch {}", shown(newest));
        line.broken(Rule::EpochsGrow, Subject::default(), text);
    }
}

fn shown(epoch: Option<i64>) -> String {
    epoch.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string())
}

/// 8a.
pub(crate) fn not_lost_while_heard(
    line: &mut Line<'_>,
    worker: WorkerId,
    heard_at: Option<DateTime<Utc>>,
) {
    let known = line.state.workers.get(&worker);
    // The newest of what the history says and of what the loss itself says: a stored history has no
    // lines of signs of life.
    let signs = [
        heard_at,
        known.and_then(|w| w.heard_at),
        known.and_then(|w| w.online_since),
    ];
    let Some(heard) = signs.into_iter().flatten().max() else {
        return;
    };
    let silent = (line.at - heard).to_std().unwrap_or_default();
    // A line has the database's time, a sign of life a coordinator's: they may be apart by the
    // slack.
    if silent + line.limits.slack < line.limits.lease {
        let text = format!(
            "it was lost {:.1} s after it was heard",
            silent.as_secs_f64()
        );
        line.broken(Rule::NotLostWhileHeard, worker, text);
    }
}

/// 8b.
pub(crate) fn no_haste_after_take_over(line: &mut Line<'_>, worker: WorkerId) {
    // Without an election nobody takes over.
    let Some(since) = line.state.led_since else {
        return;
    };
    let listened = (line.at - since).to_std().unwrap_or_default();
    if listened + line.limits.slack < line.limits.lease {
        let text = format!(
            "it was lost {:.1} s after the leader had taken over",
            listened.as_secs_f64()
        );
        line.broken(Rule::NoHasteAfterTakeOver, worker, text);
    }
}
