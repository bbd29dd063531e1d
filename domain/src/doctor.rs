//! What a look at a host found: checks with a verdict, and the cure where it is not well.
//!
//! The programs that know a part of a host each look at theirs and say so in these words
//! (`marquee-worker doctor`, `marquee-coordinator doctor`); `marquee doctor` puts them together.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Does not apply here, or could not be found out; `found` says why.
    Skipped,
    /// Works, and costs speed or safety.
    Warning,
    /// Work will fail.
    Failed,
}

impl Verdict {
    /// The word on screen and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub verdict: Verdict,
    /// What is there, or why nothing was looked at.
    pub found: String,
    /// What to do; set where the verdict is a warning or worse.
    pub cure: Option<String>,
}

impl Check {
    /// All is well.
    pub fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, found, None)
    }

    /// Not looked at.
    pub fn skipped(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(name, Verdict::Skipped, why, None)
    }

    /// Works, but.
    pub fn warning(
        name: impl Into<String>,
        found: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self::new(name, Verdict::Warning, found, Some(cure.into()))
    }

    /// Does not work.
    pub fn failed(
        name: impl Into<String>,
        found: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self::new(name, Verdict::Failed, found, Some(cure.into()))
    }

    fn new(
        name: impl Into<String>,
        verdict: Verdict,
        found: impl Into<String>,
        cure: Option<String>,
    ) -> Self {
        Self {
            name: name.into(),
            verdict,
            found: found.into(),
            cure,
        }
    }
}

/// All that one program looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Such as "marquee-worker".
    pub program: String,
    pub version: String,
    pub checks: Vec<Check>,
}

impl Report {
    /// How many checks ended with a verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        let of_it = self.checks.iter().filter(|check| check.verdict == verdict);
        of_it.count()
    }

    /// Whether anything will not work.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.count(Verdict::Failed) > 0
    }

    /// For people: one line a check, the cure below it.
    #[must_use]
    pub fn text(&self) -> String {
        let widest = self.checks.iter().map(|check| check.name.len()).max();
        let width = widest.unwrap_or(0);
        let mut text = format!("{} {}\n", self.program, self.version);
        for check in &self.checks {
            let (verdict, name, found) = (check.verdict.as_str(), &check.name, &check.found);
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(text, "  {verdict:<7}  {name:<width$}  {found}");
            if let Some(cure) = &check.cure {
                let _ = writeln!(text, "  {:<7}  {:<width$}  -> {cure}", "", "");
            }
        }
        let _ = writeln!(
            text,
            "  {} ok, {} skipped, {} to look at, {} failed",
            self.count(Verdict::Ok),
            self.count(Verdict::Skipped),
            self.count(Verdict::Warning),
            self.count(Verdict::Failed),
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_line_by_line_with_each_cure_below_its_check() {
        let report = Report {
            program: "marquee-worker".into(),
            version: "0.1.0".into(),
            checks: vec![
                Check::ok("driver", "580.82.07"),
                Check::failed("/dev/shm", "0.1 GiB", "mount it with size=2G"),
                Check::skipped("nccl", "no GPU"),
            ],
        };
        assert_eq!(
            report.text(),
            "marquee-worker 0.1.0\n\
             \x20 ok       driver    580.82.07\n\
             \x20 failed   /dev/shm  0.1 GiB\n\
             \x20                    -> mount it with size=2G\n\
             \x20 skipped  nccl      no GPU\n\
             \x20 1 ok, 1 skipped, 0 to look at, 1 failed\n"
        );
        assert!(report.has_failed());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["checks"][1]["verdict"], "failed");
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }
}
