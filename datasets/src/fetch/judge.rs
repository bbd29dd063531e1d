//! How an answer is to be taken: by HTTP's status, and by the code that TMDb-compatible services add.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Deserialize;

use super::miss::MissClass;
use super::tolerant;

/// How an answer is to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fetch) enum Judged {
    Good,
    /// What is known already still holds.
    Unchanged,
    Refused(Refusal),
}

/// An answer that is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fetch) enum Refusal {
    /// No key, a wrong one or a suspended one: nothing more will come.
    Unauthorized {
        detail: String,
    },
    Gone {
        detail: String,
    },
    /// It may pass.
    Again {
        class: MissClass,
        detail: String,
    },
    /// Too many requests.
    TooMany {
        detail: String,
    },
    /// It will not pass.
    Failed {
        class: MissClass,
        detail: String,
    },
}

/// The service's own errors: `status_code` tells more than HTTP's status, and comes with 200 too.
#[derive(Debug, Deserialize)]
struct Problem {
    success: Option<bool>,
    status_code: Option<u32>,
    status_message: Option<String>,
}

/// Judges an answer of the API by HTTP's status and its own code.
pub(in crate::fetch) fn judge(status: u16, body: &[u8]) -> Judged {
    let problem: Option<Problem> = tolerant::read(body).ok();
    let code = problem
        .as_ref()
        .and_then(|problem| problem.status_code)
        // 1 is the service's word for success.
        .filter(|code| *code != 1);
    let message = problem
        .as_ref()
        .and_then(|problem| problem.status_message.clone());
    let detail = match (code, message) {
        (Some(code), message) => {
            format!(
                "HTTP {status}, code {code}: {}",
                message.unwrap_or_default()
            )
        }
        (None, _) => format!("HTTP {status}"),
    };
    // The code says more than the status, but only where the status is 200 does it stand alone: an
    // unknown code beside an error of HTTP's own must not turn what may pass into what will not.
    match code {
        Some(3 | 7 | 10 | 14 | 45) => {
            return Judged::Refused(Refusal::Unauthorized { detail });
        }
        Some(6 | 21 | 34 | 44) => return Judged::Refused(Refusal::Gone { detail }),
        Some(25) => return Judged::Refused(Refusal::TooMany { detail }),
        Some(code @ (9 | 11 | 15 | 24 | 43 | 46)) if status == 200 => {
            let class = MissClass::Code(code);
            return Judged::Refused(Refusal::Again { class, detail });
        }
        Some(code) if status == 200 => {
            let class = MissClass::Code(code);
            return Judged::Refused(Refusal::Failed { class, detail });
        }
        Some(_) | None => {}
    }
    if status == 200 && problem.and_then(|problem| problem.success) == Some(false) {
        let class = MissClass::Refused;
        return Judged::Refused(Refusal::Failed { class, detail });
    }
    judge_status(status, detail)
}

/// Judges by HTTP's status alone, as for images and exports.
pub(in crate::fetch) fn judge_status(status: u16, detail: String) -> Judged {
    let class = MissClass::Http(status);
    Judged::Refused(match status {
        200 => return Judged::Good,
        304 => return Judged::Unchanged,
        401 => Refusal::Unauthorized { detail },
        404 | 410 => Refusal::Gone { detail },
        429 => Refusal::TooMany { detail },
        408 | 500..600 => Refusal::Again { class, detail },
        _ => Refusal::Failed { class, detail },
    })
}

/// The wait that a `Retry-After` asks for, in either of its forms. A date is taken relative to the
/// answer's own `Date`, if it has one: clocks differ.
pub(in crate::fetch) fn retry_after(
    value: Option<&str>,
    answered_at: Option<&str>,
    now: DateTime<Utc>,
) -> Option<Duration> {
    let value = value?.trim();
    // Some write a fraction. A number beyond all bounds is one all the same, and the wait has a limit of its
    // own.
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !whole.is_empty() && is_number(whole) && is_number(fraction) {
        let seconds = whole.parse::<u64>().unwrap_or(u64::MAX);
        // Rounded up: a second too early would be another refusal.
        let begun = fraction.bytes().any(|digit| digit != b'0');
        return Some(Duration::from_secs(
            seconds.saturating_add(u64::from(begun)),
        ));
    }
    let until = http_date(value)?;
    let since = answered_at.and_then(http_date).unwrap_or(now);
    Some((until - since).to_std().unwrap_or_default())
}

/// A date in one of the three forms that HTTP knows (RFC 9110, 5.6.7). The day of the week is not looked
/// at: some servers get it wrong.
fn http_date(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    let rest = text.split_once(' ').map_or("", |(_, rest)| rest).trim();
    [
        "%d %b %Y %H:%M:%S GMT",
        "%d-%b-%y %H:%M:%S GMT",
        "%b %e %H:%M:%S %Y",
    ]
    .iter()
    .find_map(|form| NaiveDateTime::parse_from_str(rest, form).ok())
    .map(|date| date.and_utc())
    // Others that mail knows, such as a zone by number.
    .or_else(|| Some(DateTime::parse_from_rfc2822(text).ok()?.to_utc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_judged_by_its_status_and_code() {
        let answer =
            |code: u32| format!(r#"{{"status_code":{code},"status_message":"x","success":false}}"#);
        let kind = |status: u16, body: &str| match judge(status, body.as_bytes()) {
            Judged::Good => "good",
            Judged::Unchanged => "unchanged",
            Judged::Refused(Refusal::Unauthorized { .. }) => "unauthorized",
            Judged::Refused(Refusal::Gone { .. }) => "gone",
            Judged::Refused(Refusal::Again { .. }) => "again",
            Judged::Refused(Refusal::TooMany { .. }) => "too many",
            Judged::Refused(Refusal::Failed { .. }) => "failed",
        };
        for (wanted, answers) in [
            (
                "unauthorized",
                &[(401, 7), (401, 10), (401, 3), (403, 10), (200, 7)][..],
            ),
            ("gone", &[(404, 34), (404, 6), (200, 44), (200, 21)]),
            (
                "again",
                &[
                    (500, 11),
                    (503, 9),
                    (504, 24),
                    (502, 43),
                    (503, 46),
                    (200, 24),
                ],
            ),
            ("failed", &[(422, 5), (400, 22), (406, 19), (200, 18)]),
            ("too many", &[(429, 25)]),
        ] {
            for (status, code) in answers {
                assert_eq!(kind(*status, &answer(*code)), wanted, "{status} {code}");
            }
        }
        for (status, body, wanted) in [
            (200, r#"{"id":11}"#, "good"),
            (200, r#"{"success":true,"status_code":1}"#, "good"),
            (304, "", "unchanged"),
            (401, "<html>", "unauthorized"),
            (503, "", "again"),
            (302, "", "failed"),
        ] {
            assert_eq!(kind(status, body), wanted, "{status} {body}");
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = "2026-11-20T12:00:00Z".parse().unwrap();
        let wait = |value, date| retry_after(value, date, now).map(|wait| wait.as_secs());
        assert_eq!(wait(Some("7"), None), Some(7));
        assert_eq!(wait(Some("Fri, 20 Nov 2026 12:00:30 GMT"), None), Some(30));
        let date = Some("Fri, 20 Nov 2026 12:00:25 GMT");
        assert_eq!(wait(Some("Fri, 20 Nov 2026 12:00:30 GMT"), date), Some(5));
        assert_eq!(wait(Some("Fri, 20 Nov 2026 11:00:00 GMT"), None), Some(0));
        for (value, seconds) in [
            ("Friday, 20-Nov-26 12:00:30 GMT", 30),
            ("Fri Nov 20 12:00:30 2026", 30),
            ("Mon, 20 Nov 2026 12:00:30 GMT", 30),
            ("Fri, 20 Nov 2026 13:00:30 +0100", 30),
            (" 21 ", 21),
            ("0", 0),
            ("1.5", 2),
            ("2.0", 2),
            ("99999999999999999999999", u64::MAX),
        ] {
            assert_eq!(wait(Some(value), None), Some(seconds), "{value}");
        }
        for value in ["soon", "", "-1", "+5", ".5", "1.5.2", "1e3", "Fri, 20 Nov"] {
            assert_eq!(wait(Some(value), None), None, "{value}");
        }
        assert_eq!(wait(None, None), None);
    }
}
