//! The coordinator: certificates, whether it answers, and how far its clock is from ours.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::doctor::Check;
use marquee_domain::env::Clock as _;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_proto::{certificate, convert, v1};

use crate::clock::SystemClock;
use crate::config::Config;
use crate::connect;

/// How long the coordinator may take, from dialling to its answer.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// Clocks further apart confuse whoever reads times of two hosts.
const OFFSET_MAX: TimeDelta = TimeDelta::seconds(1);

/// Looks at all of it.
pub(super) async fn look(config: &Config, checks: &mut Vec<Check>) {
    certificates(config, checks);
    // Each of them: one that stands by today leads tomorrow.
    for url in &config.coordinators {
        match tokio::time::timeout(ANSWER_MAX, probe(config, url)).await {
            Ok(Ok(answer)) => {
                let found = format!("{url} answers, version {}", answer.version);
                checks.push(version(found, &answer.version));
                checks.push(offset(&answer));
            }
            Ok(Err(why)) => unreachable_now(url, &why, checks),
            Err(_) => {
                let why = format!("no answer in {} s", ANSWER_MAX.as_secs());
                unreachable_now(url, &why, checks);
            }
        }
    }
}

fn certificates(config: &Config, checks: &mut Vec<Check>) {
    let Some(tls) = &config.tls else {
        let found = "the coordinator is dialled without TLS, as on one host alone";
        checks.push(Check::skipped("certificates", found));
        return;
    };
    let now = SystemClock.now();
    checks.push(certificate::check("tls.ca", &tls.ca, now));
    match &tls.identity {
        Some((own, _)) => checks.push(certificate::check("tls.cert", own, now)),
        None => {
            let found = "none: a coordinator with client_ca lets nobody in without one";
            checks.push(Check::skipped("tls.cert", found));
        }
    }
}

/// What the coordinator said, and when it was asked and heard.
struct Heard {
    version: String,
    now: Option<DateTime<Utc>>,
    asked: DateTime<Utc>,
    heard: DateTime<Utc>,
}

async fn probe(config: &Config, url: &str) -> Result<Heard, String> {
    let endpoint = connect::endpoint_at(url, config.tls.as_ref());
    let endpoint = endpoint.map_err(|e| connect::with_causes(&e))?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|e| connect::with_causes(&e))?;
    let mut client = WorkersClient::new(channel);
    let asked = SystemClock.now();
    let answer = client.probe(v1::ProbeRequest {}).await;
    let heard = SystemClock.now();
    match answer {
        Ok(answer) => {
            let answer = answer.into_inner();
            let now = answer
                .now
                .as_ref()
                .and_then(|now| convert::datetime(now).ok());
            Ok(Heard {
                version: answer.version,
                now,
                asked,
                heard,
            })
        }
        // It answers, and is older than this question.
        Err(status) if status.code() == tonic::Code::Unimplemented => Ok(Heard {
            version: "older than 0.1.0".into(),
            now: None,
            asked,
            heard,
        }),
        Err(status) => Err(connect::why(&status)),
    }
}

fn unreachable_now(url: &str, why: &str, checks: &mut Vec<Check>) {
    let cure = format!(
        "on its host: \"systemctl status marquee-coordinator\"; from here: is \"coordinator\" in {} right, and the port open?",
        Path::new(crate::config::DEFAULT_FILE).display()
    );
    checks.push(Check::failed(
        "coordinator",
        format!("{url} does not answer: {why}"),
        cure,
    ));
    checks.push(Check::skipped(
        "clock offset",
        "no coordinator to compare with",
    ));
}

fn version(found: String, theirs: &str) -> Check {
    let ours = env!("CARGO_PKG_VERSION");
    if theirs == ours {
        return Check::ok("coordinator", found);
    }
    let found = format!("{found}, and this worker is {ours}");
    Check::warning(
        "coordinator",
        found,
        "upgrade the coordinator first, then the workers: they may differ by one release",
    )
}

fn offset(answer: &Heard) -> Check {
    let name = "clock offset";
    let Some(theirs) = answer.now else {
        return Check::skipped(name, "this coordinator does not tell its time");
    };
    // It read its clock somewhere between; the middle is wrong by half of that at most.
    let middle = answer.asked + (answer.heard - answer.asked) / 2;
    let offset = middle - theirs;
    let seconds = offset.as_seconds_f64();
    let found = format!("{seconds:+.3} s against the coordinator's");
    if offset.abs() <= OFFSET_MAX {
        Check::ok(name, found)
    } else {
        Check::warning(
            name,
            found,
            "\"timedatectl set-ntp true\" on both hosts, or install chrony",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marquee_domain::doctor::Verdict;

    #[test]
    fn clocks_are_compared_at_the_middle_of_the_question() {
        let at = |ms: i64| DateTime::from_timestamp_millis(1_800_000_000_000 + ms).unwrap();
        let answer = |theirs| Heard {
            version: String::new(),
            now: Some(at(theirs)),
            asked: at(0),
            heard: at(400),
        };
        let well = offset(&answer(0));
        assert_eq!(well.verdict, Verdict::Ok);
        assert_eq!(well.found, "+0.200 s against the coordinator's");
        assert_eq!(offset(&answer(5_000)).verdict, Verdict::Warning);
    }
}
