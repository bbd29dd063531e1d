//! A demo that failed: everything that says why, while it can still be asked.

use marquee_proto::v1::{Job, JobState};

use crate::client::Remote;
use crate::clock;
use crate::commands::explain::Explanation;
use crate::commands::{logs, show};
use crate::output::{Page, Show as _};

/// Lines of log shown of each failed job.
const LOG_LINES: u32 = 20;

/// Writes each failed job's explanation and last words to stderr.
pub(super) async fn explain(remote: &Remote, jobs: &[Job]) {
    for job in jobs.iter().filter(|job| job.state() == JobState::Failed) {
        if let Ok(detail) = show::job(remote, job.id).await {
            let mut page = Page::new(false, None);
            page.line("");
            Explanation {
                detail: &detail,
                needs: &[],
            }
            .page(&mut page, clock::now());
            eprint!("{}", page.finish());
        }
        match logs::last_lines(remote, job.id, LOG_LINES).await {
            Ok(lines) if lines.is_empty() => {}
            Ok(lines) => {
                eprintln!("\nThe last words of {}", job.name);
                for line in lines {
                    eprintln!("  | {line}");
                }
            }
            Err(status) => eprintln!("its log cannot be had: {}", status.message()),
        }
    }
    eprintln!();
}
