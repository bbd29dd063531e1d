//! How a job's ranks are watched over: `hang_after`, `step_timeout`, `on_disconnect`.

use super::table::Table;
use crate::spec::{JobKind, OnDisconnect, Watch, Work};

/// A rank whose kind tells of its progress is said to hang within a minute: what it takes to notice and to tell
/// comes on top.
const HANG_AFTER_S: u32 = 45;
/// Of a gang it is said before its ranks give each other up: this part of `collective_timeout_s`.
const PART_OF_COLLECTIVE: (u32, u32) = (3, 4);
/// A preprocess job sorts and compares all its pictures at its end, without a word between.
const PREPROCESS_HANG_AFTER_S: u32 = 300;
/// Far beyond the time after which ranks give each other up, and beyond the slowest first step.
const TRAIN_STEP_TIMEOUT_S: u32 = 600;
/// The resamples at an eval's end are computed without a word between.
const EVAL_STEP_TIMEOUT_S: u32 = 3_600;
/// What switches a limit off.
const OFF: &str = "off";
/// Longest of both, as of `timeout`.
const LONGEST_S: u64 = 365 * 24 * 3600;

pub(super) fn watch(table: &mut Table<'_>, kind: JobKind) -> Draft {
    let words = [("keep", OnDisconnect::Keep), ("stop", OnDisconnect::Stop)];
    let on_disconnect = table.choice("on_disconnect", &words, Some(OnDisconnect::Keep));
    let hang_after = limit(table, "hang_after");
    let step_timeout = limit(table, "step_timeout");
    if let (Limit::After(hang), Limit::After(step)) = (hang_after, step_timeout)
        && step <= hang
    {
        table.add_error(
            "step_timeout",
            format!(
                "{step} s is not after hang_after, {hang} s: a rank is first said to hang, then ended"
            ),
        );
    }
    Draft {
        kind,
        hang_after,
        step_timeout,
        on_disconnect: on_disconnect.unwrap_or_default(),
    }
}

/// What was written, until the job's own settings are known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draft {
    kind: JobKind,
    hang_after: Limit,
    step_timeout: Limit,
    on_disconnect: OnDisconnect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Usual,
    Off,
    After(u32),
}

impl Limit {
    fn or(self, usual: Option<u32>) -> Option<u32> {
        match self {
            Self::Usual => usual,
            Self::Off => None,
            Self::After(seconds) => Some(seconds),
        }
    }
}

impl Draft {
    /// With what is usual for such a work.
    pub(super) fn of(self, work: &Work, ranks: u32) -> Watch {
        let usual_hang = match work {
            Work::Train(train) if ranks > 1 => {
                let (part, of) = PART_OF_COLLECTIVE;
                // Time-outs go from the inner to the outer: whoever hangs is named before its peers
                // give up over it, or the wrong rank would be blamed.
                Some((train.collective_timeout_s / of * part).clamp(1, HANG_AFTER_S))
            }
            Work::Train(_) | Work::Eval(_) => Some(HANG_AFTER_S),
            Work::Preprocess(_) => Some(PREPROCESS_HANG_AFTER_S),
            // A fetch waits for others by its own rules; of a command nothing but its output is heard.
            Work::Fetch(_) | Work::Command(_) => None,
        };
        let usual_step = match self.kind {
            JobKind::Train => Some(TRAIN_STEP_TIMEOUT_S),
            JobKind::Eval => Some(EVAL_STEP_TIMEOUT_S),
            JobKind::Fetch | JobKind::Preprocess | JobKind::Command => None,
        };
        let asked = match (self.hang_after, self.step_timeout) {
            // Who names one of the two means the other to fit.
            (Limit::Usual, Limit::After(step)) => {
                Some(usual_hang.unwrap_or(HANG_AFTER_S).min(step / 2).max(1))
            }
            (hang, _) => hang.or(usual_hang),
        };
        let step_timeout_s = match (self.step_timeout, asked) {
            // Twice the time to notice, or it would be ended before anybody is told why.
            (Limit::Usual, Some(hang)) => usual_step.map(|step| step.max(hang.saturating_mul(2))),
            (Limit::Usual, None) => None,
            (step, _) => step.or(None),
        };
        Watch {
            hang_after_s: asked,
            step_timeout_s,
            on_disconnect: self.on_disconnect,
        }
    }
}

fn limit(table: &mut Table<'_>, key: &'static str) -> Limit {
    let Some(text) = table.text(key) else {
        return Limit::Usual;
    };
    if text == OFF {
        return Limit::Off;
    }
    let seconds = duration_s(&text).filter(|s| (1..=LONGEST_S).contains(s));
    match seconds.and_then(|s| u32::try_from(s).ok()) {
        Some(seconds) => Limit::After(seconds),
        None => {
            table.add_error(
                key,
                format!("{text:?} is neither a duration up to a year nor {OFF:?}; write \"90s\", \"10m\" or {OFF:?}"),
            );
            Limit::Usual
        }
    }
}

pub(super) fn duration_s(text: &str) -> Option<u64> {
    let unit_s = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return None,
    };
    text[..text.len() - 1]
        .parse::<u64>()
        .ok()?
        .checked_mul(unit_s)
}
