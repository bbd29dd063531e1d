//! What Prometheus is given at `/metrics`, held against what the dashboard and the alerts ask for.

use marquee_proto::v1;
use marquee_proto::v1::cluster_client::ClusterClient;

use super::ask;
use crate::support::{Cluster, channel};

/// Families that stand in an answer, with whether each has help and a type.
fn families(text: &str) -> std::collections::BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|rest| rest.split(' ').next().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_finds_what_dashboard_and_alerts_ask_for() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let job = cluster
        .submit("[jobs.a]\nkind = \"command\"\nargv = [\"true\"]\nmax_attempts = 1\n")
        .await
        .remove(0);
    let key = worker.take_and_start().await;
    worker.fail(key, v1::FailureClass::Crash, "it died").await;
    cluster.wait_for(job.id, v1::JobState::Failed).await;
    let (status, head, body) = ask(&cluster, "GET /metrics HTTP/1.1\r\nhost: localhost", b"").await;
    assert_eq!(status, 200, "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    let text = String::from_utf8(body).unwrap();
    for line in [
        "marquee_workers{state=\"online\"} 1",
        "marquee_rpcs_total{method=\"marquee.v1.Jobs/SubmitPipeline\",code=\"ok\"}",
        "marquee_attempt_failures_total{class=\"crash\"}",
        "marquee_queue_jobs{reason=\"busy\"} 0",
        "marquee_time_to_place_seconds_bucket{le=\"+Inf\"}",
        "marquee_database_connections{state=\"idle\"}",
        "marquee_database_connections_max 20",
        "marquee_worker_silence_seconds{worker=\"w\"}",
        "marquee_database_operations_total{operation=\"place\",outcome=\"done\"}",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let dispatched = text
        .lines()
        .find_map(|line| line.strip_prefix("marquee_dispatch_seconds_count "));
    assert_ne!(dispatched.unwrap(), "0", "the rank ran");
    by_prometheus(&["check", "metrics"], &text);
    forecasts_are_told_with_how_wrong_they_were(&cluster).await;
    // By Prometheus' rules: each family has help, counters end in _total, units are whole words.
    let exported = families(&text);
    for family in &exported {
        assert!(text.contains(&format!("# HELP {family} ")), "{family}");
        assert!(
            !family.ends_with("_ms") && !family.ends_with("_mb"),
            "{family}"
        );
        let is_counter = text.contains(&format!("# TYPE {family} counter"));
        assert_eq!(is_counter, family.ends_with("_total"), "{family}");
    }
    for file in ["prometheus/alerts.yml", "grafana/marquee.json"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../deploy")
            .join(file);
        let asks = std::fs::read_to_string(&path).unwrap();
        let mut found = 0;
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        for name in asks.split(word).filter(|word| word.starts_with("marquee_")) {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            assert!(
                exported.contains(family) || exported.contains(name),
                "{file} asks for {name}, which is not exported"
            );
            found += 1;
        }
        assert!(found > 5, "{file}");
    }
    let alerts = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/prometheus/alerts.yml"
    );
    by_prometheus(&["check", "rules", alerts], "");
}

/// In the figures and in the overview, once somebody has looked it up.
async fn forecasts_are_told_with_how_wrong_they_were(cluster: &Cluster) {
    let accuracy = marquee_store::forecasts::Accuracy {
        jobs: 10,
        median_error_s: 42.5,
        held: 9,
    };
    let mut client = ClusterClient::new(channel(&cluster.running.address).await);
    for tries in 0.. {
        // The loop that looks it up has its first round when the coordinator starts, perhaps only now.
        cluster.app().index.plays.keep_accuracy(Some(accuracy));
        let (_, _, body) = ask(cluster, "GET /metrics HTTP/1.1\r\nhost: localhost", b"").await;
        let text = String::from_utf8(body).unwrap();
        let overview = client.get_overview(v1::GetOverviewRequest {}).await;
        let told = overview.unwrap().into_inner().forecasts;
        let lines = [
            "marquee_forecast_error_seconds 42.5",
            "marquee_forecasts{started=\"in_time\"} 9",
            "marquee_forecasts{started=\"late\"} 1",
        ];
        let is_told = told.is_some_and(|told| {
            (told.jobs, told.held) == (10, 9) && (told.median_error_s - 42.5).abs() < f64::EPSILON
        });
        if is_told && lines.iter().all(|line| text.contains(line)) {
            by_prometheus(&["check", "metrics"], &text);
            return;
        }
        assert!(tries < 100, "{told:?}\n{text}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// What Prometheus' own judge says, where it is installed.
fn by_prometheus(arguments: &[&str], text: &str) {
    use std::io::Write as _;
    let judge = std::process::Command::new("promtool")
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let Ok(mut judge) = judge else {
        eprintln!(
            "SKIPPED  promtool {arguments:?}: it is not on PATH (Debian's package prometheus has it)"
        );
        return;
    };
    // One that reads files alone has closed its stdin by now.
    let _ = judge.stdin.take().unwrap().write_all(text.as_bytes());
    let said = judge.wait_with_output().unwrap();
    assert!(said.status.success(), "{said:?}\n{text}");
}
