//! After a demo that failed: says why, as long as its coordinator still runs and can be asked.

use marquee_proto::v1::{Job, JobState};
use marquee_view::Page;
use marquee_view::explain::Explanation;

use crate::client::Remote;
use crate::output::terminal;
use crate::say::{self, say};
use crate::{clock, requests};

/// Lines of log shown of each failed job.
const LOG_LINES: u32 = 20;

/// Writes each failed job's explanation and last words to stderr.
pub(super) async fn explain(remote: &Remote, jobs: &[Job]) {
    for job in jobs.iter().filter(|job| job.state() == JobState::Failed) {
        // What cannot be asked is left out: the demo has failed already, and one more error would
        // hide why.
        if let Ok(detail) = requests::jobs::get(remote, job.id).await {
            let explanation = Explanation {
                detail: &detail,
                needs: &[],
            };
            let page = Page::of(&explanation, clock::now());
            say::page(&format!("\n{}", terminal::draw(&page, false, None)));
        }
        match requests::logs::last_lines(remote, job.id, LOG_LINES).await {
            Ok(lines) if lines.is_empty() => {}
            Ok(lines) => {
                say!("\nThe last words of {}", job.name);
                for line in lines {
                    say!("  | [{}] {}", line.rank, line.text.trim_end());
                }
            }
            Err(status) => say!("its log cannot be had: {}", status.message()),
        }
    }
    say!("");
}
