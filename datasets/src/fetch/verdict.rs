//! How an answer is to be taken: by HTTP's status, and by the code that TMDb-compatible services add.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;

/// How an answer is to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fetch) enum Verdict {
    Good,
    /// What is known already still holds.
    Unchanged,
    /// No key, a wrong one or a suspended one: nothing more will come.
    Unauthorized {
        detail: String,
    },
    Gone {
        detail: String,
    },
    /// It may pass.
    Again {
        class: String,
        detail: String,
    },
    /// Too many requests.
    TooMany {
        detail: String,
    },
    /// It will not pass.
    Failed {
        class: String,
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
pub(in crate::fetch) fn judge(status: u16, body: &[u8]) -> Verdict {
    let problem: Option<Problem> = serde_json::from_slice(body).ok();
    let code = problem
        .as_ref()
        .and_then(|problem| problem.status_code)
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
    match code {
        Some(3 | 7 | 10 | 14 | 45) => return Verdict::Unauthorized { detail },
        Some(6 | 21 | 34 | 44) => return Verdict::Gone { detail },
        Some(25) => return Verdict::TooMany { detail },
        Some(9 | 11 | 15 | 24 | 43 | 46) if status == 200 => {
            return Verdict::Again {
                class: format!("code_{}", code.unwrap_or_default()),
                detail,
            };
        }
        Some(code) if status == 200 => {
            return Verdict::Failed {
                class: format!("code_{code}"),
                detail,
            };
        }
        Some(_) | None => {}
    }
    if status == 200 && problem.and_then(|problem| problem.success) == Some(false) {
        return Verdict::Failed {
            class: "refused".to_owned(),
            detail,
        };
    }
    judge_status(status, detail)
}

/// Judges by HTTP's status alone, as for images and exports.
pub(in crate::fetch) fn judge_status(status: u16, detail: String) -> Verdict {
    match status {
        200 => Verdict::Good,
        304 => Verdict::Unchanged,
        401 => Verdict::Unauthorized { detail },
        404 | 410 => Verdict::Gone { detail },
        429 => Verdict::TooMany { detail },
        408 | 500..600 => Verdict::Again {
            class: format!("http_{status}"),
            detail,
        },
        _ => Verdict::Failed {
            class: format!("http_{status}"),
            detail,
        },
    }
}

/// The wait that a `Retry-After` asks for, in either of its forms. A date is taken relative to the
/// answer's own `Date`, if it has one: clocks differ.
pub(in crate::fetch) fn retry_after(
    value: Option<&str>,
    answered_at: Option<&str>,
    now: DateTime<Utc>,
) -> Option<Duration> {
    let value = value?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until = http_date(value)?;
    let since = answered_at.and_then(http_date).unwrap_or(now);
    Some((until - since).to_std().unwrap_or_default())
}

fn http_date(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc2822(text.trim())
        .ok()
        .map(|date| date.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_verdict() {
        let body =
            |code: u32| format!(r#"{{"status_code":{code},"status_message":"x","success":false}}"#);
        let verdict = |status: u16, code: u32| judge(status, body(code).as_bytes());
        for (status, code) in [(401, 7), (401, 10), (401, 3), (403, 10), (200, 7)] {
            assert!(
                matches!(verdict(status, code), Verdict::Unauthorized { .. }),
                "{status} {code}"
            );
        }
        for (status, code) in [(404, 34), (404, 6), (200, 44), (200, 21)] {
            assert!(
                matches!(verdict(status, code), Verdict::Gone { .. }),
                "{status} {code}"
            );
        }
        for (status, code) in [
            (500, 11),
            (503, 9),
            (504, 24),
            (502, 43),
            (503, 46),
            (200, 24),
        ] {
            assert!(
                matches!(verdict(status, code), Verdict::Again { .. }),
                "{status} {code}"
            );
        }
        for (status, code) in [(422, 5), (400, 22), (406, 19), (200, 18)] {
            assert!(
                matches!(verdict(status, code), Verdict::Failed { .. }),
                "{status} {code}"
            );
        }
        assert!(matches!(verdict(429, 25), Verdict::TooMany { .. }));
        assert_eq!(judge(200, br#"{"id":11}"#), Verdict::Good);
        assert_eq!(
            judge(200, br#"{"success":true,"status_code":1}"#),
            Verdict::Good
        );
        assert!(matches!(
            judge(401, b"<html>"),
            Verdict::Unauthorized { .. }
        ));
        assert!(matches!(judge(503, b""), Verdict::Again { .. }));
        assert!(matches!(judge(302, b""), Verdict::Failed { .. }));
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
        assert_eq!(wait(Some("soon"), None), None);
        assert_eq!(wait(None, None), None);
    }
}
