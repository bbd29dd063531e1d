//! A line of a history as the rules see it, and where they say what is wrong.

use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::job::AttemptStateName;
use marquee_domain::limits;

use crate::finding::{Finding, Report, Rule, Subject};
use crate::state::State;

/// Findings that are kept; of a history that is broken throughout the first ones tell enough.
const FINDINGS_MAX: usize = 1_000;

/// Times that the rules go by.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a worker may be silent.
    pub lease: Duration,
    /// How far the database's clock and a coordinator's may be apart.
    pub slack: Duration,
    /// How long after the end of an attempt its ranks may hold devices on a worker that is online, and how long
    /// a cancel may take: two leases, the grace of a child, and a minute for a busy host.
    pub let_go: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lease: limits::LEASE,
            slack: Duration::from_secs(1),
            let_go: limits::LEASE * 2 + limits::STOP_GRACE + Duration::from_secs(60),
        }
    }
}

/// The findings so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) report: Report,
}

impl Findings {
    /// Adds one. `line` is where in the history it is, with its time.
    pub(crate) fn add(
        &mut self,
        rule: Rule,
        line: Option<(i64, DateTime<Utc>)>,
        subject: impl Into<Subject>,
        text: String,
    ) {
        if self.report.findings.len() >= FINDINGS_MAX {
            self.report.more += 1;
            return;
        }
        self.report.findings.push(Finding {
            rule,
            at: line.map(|(_, at)| at),
            event: line.map(|(number, _)| number),
            subject: subject.into(),
            text,
        });
    }
}

/// One line of a history before it is taken in: what was before, and where to say what is wrong.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) state: &'a State,
    pub(crate) limits: Limits,
    pub(crate) at: DateTime<Utc>,
    pub(crate) number: i64,
    pub(crate) findings: &'a mut Findings,
}

impl Line<'_> {
    pub(crate) fn broken(&mut self, rule: Rule, subject: impl Into<Subject>, text: String) {
        let line = Some((self.number, self.at));
        self.findings.add(rule, line, subject, text);
    }
}

/// Whether an attempt in this state has ended without a result.
pub(crate) fn ended_badly(state: AttemptStateName) -> bool {
    match state {
        AttemptStateName::Failed | AttemptStateName::Cancelled | AttemptStateName::Interrupted => {
            true
        }
        AttemptStateName::Assigned | AttemptStateName::Running | AttemptStateName::Succeeded => {
            false
        }
    }
}
