//! The cluster's own history, as `marquee audit verify` checks it: the same rules over the audit table, beside those
//! of [`crate::check`], which know what the children really did.

use chrono::DateTime;
use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::rank::RankKey;
use marquee_history::{Checker, Limits, Rule};
use marquee_store::Db;
use marquee_store::audit::{self, Filter};
use uuid::Uuid;

/// Rows of one statement.
const ROWS_AT_ONCE: u32 = 5_000;
/// Rules that compare times: the database writes down real ones, in which a simulated minute is a second.
const BY_TIME: [Rule; 3] = [
    Rule::NotLostWhileHeard,
    Rule::NoHasteAfterTakeOver,
    Rule::NothingStuck,
];

/// What is wrong with it.
///
/// # Errors
/// When it cannot be read.
pub fn findings(url: &str) -> anyhow::Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(read(url))
}

async fn read(url: &str) -> anyhow::Result<Vec<String>> {
    let db = Db::connect(url, Uuid::nil()).await?;
    let mut conn = db.snapshot().await?;
    let mut checker = Checker::new(Limits::default());
    let (mut filter, mut now) = (Filter::default(), DateTime::UNIX_EPOCH);
    loop {
        let page = audit::list_lines(&mut conn, &filter, ROWS_AT_ONCE).await?;
        for event in page.lines.iter().filter_map(audit::event) {
            // The newest line is "now": any other clock would have to be of the machine.
            now = now.max(event.at);
            checker.event(&event);
        }
        let Some(next) = page.next else { break };
        filter.after = next;
    }
    let mut after = PipelineId(0);
    loop {
        let page = audit::list_stored_pipelines(&mut conn, after, ROWS_AT_ONCE).await?;
        let Some(last) = page.last() else { break };
        after = last.id;
        page.iter().for_each(|pipeline| checker.pipeline(pipeline));
    }
    let mut after = JobId(0);
    loop {
        let page = audit::list_stored_jobs(&mut conn, after, ROWS_AT_ONCE).await?;
        let Some(last) = page.last() else { break };
        after = last.id;
        page.iter().for_each(|job| checker.job(job));
    }
    let mut after = RankKey::new(0, 0, 0);
    loop {
        let page = audit::list_stored_ranks(&mut conn, after, ROWS_AT_ONCE).await?;
        let Some(last) = page.last() else { break };
        after = last.key;
        page.iter().for_each(|rank| checker.rank(rank));
    }
    drop(conn);
    db.close().await;
    // Quiet: faults are over by now, and the world has had its time to come to rest.
    let report = checker.finish(now, true);
    let told = report.findings.iter();
    let told = told.filter(|finding| !BY_TIME.contains(&finding.rule));
    Ok(told
        .map(|finding| format!("audit, rule {}: {}", finding.rule, finding.text))
        .collect())
}
