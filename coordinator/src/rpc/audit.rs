//! What happened on this cluster, and whether every rule was kept.

use std::sync::Arc;
use std::time::Instant;

use marquee_domain::ids::{JobId, PipelineId};
use marquee_history::Finding;
use marquee_proto::convert::{datetime, text, timestamp};
use marquee_proto::error::ErrorCode;
use marquee_proto::v1::{self, verify_audit_response::Body};
use marquee_store::audit::{self, Filter, Line};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::jobs::follow::Over;
use crate::app::App;
use crate::audit::{Progress, Verified, WITHIN, Wanted, verify};
use crate::lifecycle::LifecycleError;

/// Messages that wait for a slow reader; then the check goes on without telling how far it is.
const WAITING_MAX: usize = 64;
/// Lines read at once.
const PAGE_LINES: u32 = 1_000;
/// Bytes of a name to search for.
const WORD_MAX_BYTES: usize = 200;

type Streamed<T> = ReceiverStream<Result<T, Status>>;

/// The service.
#[derive(Debug)]
pub(super) struct AuditService {
    app: App,
    /// One check at a time: each keeps a connection and old rows.
    one: Arc<Semaphore>,
}

impl AuditService {
    pub(super) fn new(app: App) -> Self {
        Self {
            app,
            one: Arc::new(Semaphore::new(1)),
        }
    }
}

#[tonic::async_trait]
impl v1::audit_server::Audit for AuditService {
    type VerifyStream = Streamed<v1::VerifyAuditResponse>;
    type ListStream = Streamed<v1::AuditLine>;

    async fn verify(
        &self,
        request: Request<v1::VerifyAuditRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let request = request.into_inner();
        let wanted = Wanted {
            skip_files: request.skip_files,
            expect_quiet: request.expect_quiet,
        };
        // Refused and not queued: one takes long, and who waits without a word asks again.
        let Ok(permit) = self.one.clone().try_acquire_owned() else {
            let text = "another check of the history is running; run this again when it is through";
            return Err(ErrorCode::LimitReached.status(text));
        };
        let (send, receive) = mpsc::channel(WAITING_MAX);
        let app = self.app.clone();
        tokio::spawn(async move {
            let _permit = permit;
            // A reader that leaves ends the check: it would hold its connection for nobody.
            tokio::select! {
                () = send.closed() => {}
                () = app.shutdown.cancelled() => Over::Stopping.tell(&send).await,
                () = tell(&app, wanted, &send) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn list(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let request = request.into_inner();
        let word = |field, word: String| -> Result<Option<String>, Status> {
            let word = text(field, word, WORD_MAX_BYTES)?;
            Ok((!word.is_empty()).then_some(word))
        };
        let mut filter = Filter {
            job: (request.job_id != 0).then_some(JobId(request.job_id)),
            pipeline: (request.pipeline_id != 0).then_some(PipelineId(request.pipeline_id)),
            worker: word("worker", request.worker)?,
            actor: word("actor", request.actor)?,
            after: 0,
            before: (request.before != 0).then_some(request.before),
        };
        if let Some(since) = &request.since {
            let since = datetime(since)?;
            let mut conn = self.app.db.read().await.map_err(LifecycleError::from)?;
            filter.after = audit::find_line_before(&mut conn, since)
                .await
                .map_err(LifecycleError::from)?;
        }
        let (send, receive) = mpsc::channel(WAITING_MAX);
        let app = self.app.clone();
        tokio::spawn(async move {
            let listed = list(&app, filter, request.newest_first, request.limit, &send);
            tokio::select! {
                () = app.shutdown.cancelled() => Over::Stopping.tell(&send).await,
                listed = listed => if let Err(error) = listed {
                    let _ = send.send(Err(error.into())).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

/// Checks, and sends what it finds.
async fn tell(
    app: &App,
    wanted: Wanted,
    send: &mpsc::Sender<Result<v1::VerifyAuditResponse, Status>>,
) {
    let begun = Instant::now();
    let (progress, mut steps) = mpsc::channel::<Progress>(WAITING_MAX);
    let steps = async {
        while let Some(step) = steps.recv().await {
            let step = v1::AuditProgress {
                phase: step.phase.into(),
                done: step.done,
            };
            // Tried, not waited for: the check must not go at a slow reader's pace.
            let _ = send.try_send(Ok(answer(Body::Progress(step))));
        }
    };
    let check = async {
        let verified = tokio::time::timeout(WITHIN, verify(app, wanted, &progress)).await;
        // Else the loop over its steps would wait for more for ever.
        drop(progress);
        verified
    };
    let (verified, ()) = tokio::join!(check, steps);
    let messages = match verified {
        Ok(Ok(verified)) => encode(&verified, begun),
        Ok(Err(error)) => vec![Err(error.into())],
        Err(_) => {
            let text = format!(
                "the check took longer than {} s; try it when less is going on, or without files",
                WITHIN.as_secs()
            );
            vec![Err(ErrorCode::LimitReached.status(text))]
        }
    };
    for message in messages {
        if send.send(message).await.is_err() {
            return;
        }
    }
}

fn answer(body: Body) -> v1::VerifyAuditResponse {
    v1::VerifyAuditResponse { body: Some(body) }
}

fn encode(verified: &Verified, begun: Instant) -> Vec<Result<v1::VerifyAuditResponse, Status>> {
    let report = &verified.report;
    let summary = v1::AuditSummary {
        lines: report.events,
        jobs: report.jobs,
        grants: report.grants,
        commits: report.commits,
        artifacts: verified.artifacts,
        findings: report.findings.len() as u64 + report.more,
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        began_at: verified.began_at.map(timestamp),
    };
    let findings = report
        .findings
        .iter()
        .map(|finding| Body::Finding(encode_finding(finding)));
    let bodies = findings.chain([Body::Summary(summary)]);
    bodies.map(|body| Ok(answer(body))).collect()
}

fn encode_finding(finding: &Finding) -> v1::AuditFinding {
    let subject = &finding.subject;
    v1::AuditFinding {
        rule: finding.rule.code().into(),
        sentence: finding.rule.sentence().into(),
        text: finding.text.clone(),
        at: finding.at.map(timestamp),
        line: finding.event.unwrap_or(0),
        pipeline_id: subject.pipeline.map_or(0, |id| id.0),
        job_id: subject.job.map_or(0, |id| id.0),
        attempt: subject.attempt.map_or(0, |number| number.0),
        rank: subject.rank.map(|rank| rank.0),
        worker_id: subject.worker.map(|id| id.to_string()).unwrap_or_default(),
        device: subject.device.as_ref().map(v1::Device::from),
    }
}

async fn list(
    app: &App,
    mut filter: Filter,
    newest_first: bool,
    limit: u32,
    send: &mpsc::Sender<Result<v1::AuditLine, Status>>,
) -> Result<(), LifecycleError> {
    let mut left = if limit == 0 { u32::MAX } else { limit };
    while left > 0 {
        let mut conn = app.db.read().await?;
        let wanted = left.min(PAGE_LINES);
        let page = if newest_first {
            audit::list_lines_back(&mut conn, &filter, wanted).await?
        } else {
            audit::list_lines(&mut conn, &filter, wanted).await?
        };
        // A slow reader holds up no connection.
        drop(conn);
        left -= u32::try_from(page.lines.len())
            .unwrap_or(u32::MAX)
            .min(left);
        for line in page.lines {
            if send.send(Ok(encode_line(line))).await.is_err() {
                return Ok(());
            }
        }
        match page.next {
            Some(next) if newest_first => filter.before = Some(next),
            Some(next) => filter.after = next,
            None => return Ok(()),
        }
    }
    Ok(())
}

fn encode_line(line: Line) -> v1::AuditLine {
    v1::AuditLine {
        number: line.number,
        at: Some(timestamp(line.at)),
        kind: line.kind,
        pipeline_id: line.pipeline.map_or(0, |id| id.0),
        job_id: line.job.map_or(0, |id| id.0),
        attempt: line.attempt.map_or(0, |number| number.0),
        rank: line.rank.map(|rank| rank.0),
        worker_id: line.worker.map(|id| id.to_string()).unwrap_or_default(),
        worker_name: line.worker_name.unwrap_or_default(),
        epoch: line.epoch.unwrap_or(0),
        actor: line.actor,
        detail_json: if line.detail.is_null() {
            String::new()
        } else {
            line.detail.to_string()
        },
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use marquee_domain::ids::{AttemptNumber, Rank, WorkerId};
    use marquee_domain::resources::Device;
    use marquee_history::{Report, Rule, Subject};
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn line(detail: Value) -> Line {
        Line {
            number: 7,
            at: at(0),
            kind: "granted".into(),
            pipeline: None,
            job: Some(JobId(3)),
            attempt: Some(AttemptNumber(1)),
            rank: Some(Rank(0)),
            worker: Some(WorkerId(Uuid::from_u128(9))),
            worker_name: None,
            epoch: None,
            actor: String::new(),
            detail,
        }
    }

    #[test]
    fn a_line_tells_rank_0_from_no_rank_and_says_nothing_of_what_is_not_there() {
        let encoded = encode_line(line(Value::Null));
        assert_eq!(encoded.rank, Some(0));
        assert_eq!(
            (encoded.pipeline_id, encoded.job_id, encoded.attempt),
            (0, 3, 1)
        );
        assert_eq!((encoded.worker_name.as_str(), encoded.epoch), ("", 0));
        assert_eq!(encoded.detail_json, "", "nothing is not the word null");
        assert_eq!(encoded.worker_id, Uuid::from_u128(9).to_string());
        let without = Line {
            rank: None,
            worker: None,
            epoch: Some(4),
            ..line(json!({ "fault": "kill_rank" }))
        };
        let encoded = encode_line(without);
        assert_eq!(
            (encoded.rank, encoded.worker_id.as_str(), encoded.epoch),
            (None, "", 4)
        );
        assert_eq!(encoded.detail_json, r#"{"fault":"kill_rank"}"#);
    }

    fn finding(rule: Rule) -> Finding {
        Finding {
            rule,
            at: None,
            event: None,
            subject: Subject::default(),
            text: "seen".into(),
        }
    }

    #[test]
    fn every_rule_has_a_code_and_a_sentence_of_its_own_on_the_wire() {
        let encoded: Vec<v1::AuditFinding> = Rule::ALL
            .iter()
            .map(|rule| encode_finding(&finding(*rule)))
            .collect();
        let codes: std::collections::BTreeSet<&str> = encoded
            .iter()
            .map(|finding| finding.rule.as_str())
            .collect();
        assert_eq!(codes.len(), encoded.len());
        for finding in &encoded {
            assert!(!finding.sentence.is_empty() && !finding.rule.is_empty());
            assert!(finding.rank.is_none() && finding.at.is_none() && finding.device.is_none());
            assert_eq!((finding.line, finding.worker_id.as_str()), (0, ""));
        }
        let whole = Finding {
            at: Some(at(1)),
            event: Some(12),
            subject: Subject {
                pipeline: Some(PipelineId(2)),
                job: Some(JobId(3)),
                attempt: Some(AttemptNumber(4)),
                rank: Some(Rank(0)),
                worker: Some(WorkerId(Uuid::from_u128(9))),
                device: Some(Device::Gpu { index: 0 }),
            },
            ..finding(Rule::ALL[0])
        };
        let encoded = encode_finding(&whole);
        assert_eq!(
            (encoded.pipeline_id, encoded.job_id, encoded.attempt),
            (2, 3, 4)
        );
        assert_eq!((encoded.rank, encoded.line), (Some(0), 12));
        assert!(encoded.device.is_some());
    }

    #[test]
    fn the_summary_comes_last_and_counts_those_that_are_not_listed() {
        let verified = Verified {
            report: Report {
                events: 5,
                jobs: 4,
                grants: 3,
                commits: 2,
                findings: vec![finding(Rule::ALL[0]), finding(Rule::ALL[1])],
                more: 40,
            },
            artifacts: 1,
            began_at: None,
        };
        let messages = encode(&verified, Instant::now());
        assert_eq!(messages.len(), 3);
        let bodies: Vec<Body> = messages
            .into_iter()
            .map(|message| message.unwrap().body.unwrap())
            .collect();
        let Some(Body::Summary(summary)) = bodies.last() else {
            panic!("the summary is last: {bodies:?}");
        };
        assert_eq!(summary.findings, 42);
        assert_eq!((summary.lines, summary.jobs, summary.grants), (5, 4, 3));
        assert_eq!((summary.commits, summary.artifacts), (2, 1));
    }
}
