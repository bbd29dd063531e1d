//! What a child says on its channel, judged at the door: what could not be stored fails its rank here, with
//! a reason, and gets no further.

use marquee_domain::RankKey;
use marquee_domain::child::ChildEvent;
use marquee_domain::limits::{
    CHILD_LINE_MAX_BYTES, COUNT_MAX, FAILURE_MESSAGE_MAX_BYTES, METRIC_NAME_MAX_BYTES,
    METRICS_PER_REPORT_MAX, PROBLEM_CLASSES_MAX, PROGRESS_MAX, PROGRESS_WORD_MAX_BYTES, RANKS_MAX,
};
use serde::Deserialize;

use super::lines::Line;

/// Bytes of a bad line shown in a message.
const SHOWN_BYTES: usize = 200;
/// What the coordinator's text cannot hold, as JSON writes it.
const ESCAPED_NUL: &str = "\\u0000";

/// Enough to tell an event of a later version from something else.
#[derive(Deserialize)]
struct Tag {
    event: String,
}

/// The event of a line. None: of a kind that this version does not know. An error: why the line breaks the
/// child contract.
pub(super) fn read(line: &Line) -> Result<Option<ChildEvent>, String> {
    if line.cut {
        return Err(format!(
            "a line of its events is longer than {CHILD_LINE_MAX_BYTES} bytes"
        ));
    }
    match serde_json::from_slice::<ChildEvent>(&line.bytes) {
        Ok(event) => check(&event).map(|()| Some(event)),
        // A second look at the kind alone: an event of a later version is passed over, and a known
        // one with wrong fields is a fault.
        Err(error) => match serde_json::from_slice::<Tag>(&line.bytes) {
            Ok(tag) if !is_known(&tag.event) => Ok(None),
            Ok(_) | Err(_) => Err(format!("it sent no event but {:?}: {error}", shown(line))),
        },
    }
}

fn is_known(event: &str) -> bool {
    matches!(
        event,
        "progress" | "metrics" | "checkpoint" | "regrouped" | "finished" | "failed"
    )
}

fn shown(line: &Line) -> String {
    let start = &line.bytes[..line.bytes.len().min(SHOWN_BYTES)];
    String::from_utf8_lossy(start).into_owned()
}

/// Whether an event can be stored.
pub(super) fn check(event: &ChildEvent) -> Result<(), String> {
    match event {
        ChildEvent::Progress {
            phase,
            done,
            total,
            unit,
            bytes,
            problems,
        } => {
            count("done", *done, PROGRESS_MAX)?;
            count("total", total.unwrap_or(0), PROGRESS_MAX)?;
            count("bytes", bytes.unwrap_or(0), PROGRESS_MAX)?;
            word("phase", phase, PROGRESS_WORD_MAX_BYTES)?;
            word("unit", unit, PROGRESS_WORD_MAX_BYTES)?;
            at_most("classes of problems", problems.len(), PROBLEM_CLASSES_MAX)?;
            for (class, number) in problems {
                word("class of problems", class, PROGRESS_WORD_MAX_BYTES)?;
                count(class, *number, PROGRESS_MAX)?;
            }
            Ok(())
        }
        ChildEvent::Metrics { step, values } => {
            count("step", *step, COUNT_MAX)?;
            at_most("metrics of one step", values.len(), METRICS_PER_REPORT_MAX)?;
            for (name, value) in values {
                word("metric", name, METRIC_NAME_MAX_BYTES)?;
                if !value.is_finite() {
                    return Err(format!("metric {name:?} of step {step} is {value}"));
                }
            }
            Ok(())
        }
        ChildEvent::Checkpoint { step, path: _ } => count("step", *step, COUNT_MAX),
        ChildEvent::Regrouped {
            step,
            ranks,
            steps_lost,
            seconds,
        } => {
            count("step", *step, COUNT_MAX)?;
            count("steps_lost", *steps_lost, COUNT_MAX)?;
            if !seconds.is_finite() {
                return Err(format!("it regrouped in {seconds} seconds"));
            }
            let ascends = ranks.windows(2).all(|pair| pair[0] < pair[1]);
            if ranks.is_empty() || !ascends || ranks.iter().any(|rank| *rank >= RANKS_MAX) {
                return Err("the ranks that go on are no ascending list of ranks".to_owned());
            }
            Ok(())
        }
        // Both are short here: what is too long was cut, or refused with its whole line.
        ChildEvent::Finished { summary: _ } | ChildEvent::Failed { .. } => Ok(()),
    }
}

fn count(what: &str, value: u64, most: u64) -> Result<(), String> {
    if value <= most {
        return Ok(());
    }
    Err(format!("{what} is {value}, and {most} is the most"))
}

fn at_most(what: &str, found: usize, most: usize) -> Result<(), String> {
    if found <= most {
        return Ok(());
    }
    Err(format!("{found} {what} are more than {most}"))
}

/// A word that is stored as it is: so two that differ here differ there.
fn word(what: &str, text: &str, most: usize) -> Result<(), String> {
    let start = &text[..text.floor_char_boundary(SHOWN_BYTES)];
    if text.len() > most {
        let bytes = text.len();
        return Err(format!(
            "a {what} has a name of {bytes} bytes, and {most} is the most: {start:?}.."
        ));
    }
    if text.contains(char::is_control) || text.contains(ESCAPED_NUL) {
        return Err(format!(
            "a {what} has control characters in its name: {start:?}"
        ));
    }
    Ok(())
}

/// A failure's message within its limit.
pub(super) fn cut(mut message: String) -> String {
    if message.len() > FAILURE_MESSAGE_MAX_BYTES {
        message.truncate(message.floor_char_boundary(FAILURE_MESSAGE_MAX_BYTES));
        message.push_str(" ..");
    }
    message
}

/// Why a rank ended that broke the contract.
pub(super) fn breach(key: RankKey, program: &str, why: &str) -> String {
    format!(
        "{program} broke the child contract as rank {}: {why}; it was ended, since nothing of this can be stored",
        key.rank
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Option<ChildEvent>, String> {
        read(&Line {
            bytes: text.as_bytes().to_vec(),
            cut: false,
        })
    }

    #[test]
    fn what_cannot_be_stored_is_refused_with_its_reason() {
        let long = "m".repeat(3_000);
        let many: Vec<String> = (0..5_000).map(|n| format!("\"m{n}\":1")).collect();
        let classes: Vec<String> = (0..200).map(|n| format!("\"c{n}\":1")).collect();
        let metrics = |step: &str, values: &str| {
            format!(r#"{{"event":"metrics","step":{step},"values":{{{values}}}}}"#)
        };
        let progress = |rest: &str| {
            format!(r#"{{"event":"progress","phase":"p","total":null,"unit":"u",{rest}}}"#)
        };
        let attacks = [
            (
                metrics("18446744073709551615", "\"a\":1"),
                "step is 18446744073709551615",
            ),
            (metrics("9223372036854775808", "\"a\":1"), "is the most"),
            (metrics("1", &format!("\"{long}\":1")), "name of 3000 bytes"),
            (
                metrics("1", "\"a\\u0000\":1,\"a\\ufffd\":1"),
                "control characters",
            ),
            (
                metrics("1", "\"a\\\\u0000\":1,\"a\\\\ufffd\":1"),
                "control characters",
            ),
            (metrics("1", "\"a\":NaN"), "it sent no event"),
            (metrics("1", "\"a\":1e999"), "it sent no event"),
            (metrics("-1", "\"a\":1"), "it sent no event"),
            (
                metrics("1", &many.join(",")),
                "5000 metrics of one step are more than 4096",
            ),
            (progress(r#""done":18446744073709551615"#), "done is"),
            (
                progress(&format!(r#""done":1,"problems":{{{}}}"#, classes.join(","))),
                "200 classes of problems",
            ),
            (
                r#"{"event":"checkpoint","step":9223372036854775808,"path":"/c"}"#.into(),
                "step is",
            ),
            (
                r#"{"event":"regrouped","step":1,"ranks":[],"steps_lost":0,"seconds":1}"#.into(),
                "ascending",
            ),
            (
                r#"{"event":"regrouped","step":1,"ranks":[2,1],"steps_lost":0,"seconds":1}"#.into(),
                "ascending",
            ),
            ("not JSON".into(), "it sent no event"),
            ("[".repeat(100_000), "it sent no event"),
            (String::new(), "it sent no event"),
        ];
        for (line, reason) in attacks {
            let why = said(&line).unwrap_err();
            assert!(why.contains(reason), "{why}");
            assert!(why.len() < 1_000, "{why}");
        }
        let cut = Line {
            bytes: b"{".to_vec(),
            cut: true,
        };
        assert!(
            read(&cut)
                .unwrap_err()
                .contains("longer than 1048576 bytes")
        );
    }

    #[test]
    fn what_is_just_within_its_limits_is_taken() {
        let name = "m".repeat(METRIC_NAME_MAX_BYTES);
        let line =
            format!(r#"{{"event":"metrics","step":{COUNT_MAX},"values":{{"{name}":-1e308}}}}"#);
        assert!(matches!(said(&line), Ok(Some(ChildEvent::Metrics { .. }))));
        assert_eq!(said(r#"{"event":"invented later","x":1}"#), Ok(None));
        assert_eq!(cut("é".repeat(20_000)).len(), FAILURE_MESSAGE_MAX_BYTES + 3);
    }
}
