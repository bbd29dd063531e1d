//! What is said of a worker's clock that is far from the coordinator's.

use chrono::TimeDelta;

/// By how much, for whoever looks after the worker or the coordinator. Which of the two is wrong neither can know.
pub(super) fn apart(ahead: TimeDelta) -> String {
    let far = ahead.abs();
    let way = if ahead > TimeDelta::zero() {
        "ahead of"
    } else {
        "behind"
    };
    let length = if far < TimeDelta::minutes(2) {
        format!("{} s", far.num_seconds())
    } else if far < TimeDelta::hours(2) {
        format!("{} min {} s", far.num_minutes(), far.num_seconds() % 60)
    } else {
        format!("{} h {} min", far.num_hours(), far.num_minutes() % 60)
    };
    format!(
        "this worker's clock is {length} {way} the coordinator's; set the one that is wrong (\"timedatectl set-ntp true\"): from 10 min on certificates are refused, and times of several hosts cannot be compared"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_which_way_and_how_far() {
        let said = |seconds| apart(TimeDelta::seconds(seconds));
        assert!(said(6).contains("is 6 s ahead of the coordinator's"));
        assert!(said(-252).contains("is 4 min 12 s behind the coordinator's"));
        assert!(said(86_460).contains("is 24 h 1 min ahead"));
    }
}
