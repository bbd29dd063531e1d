//! Written limits: what is too much is cut, counted and said.

use std::time::Duration;

use marquee_domain::limits::{LOG_LINE_MAX_BYTES, REPORTS_IN_FLIGHT_MAX};
use marquee_proto::v1::report::Body;

use crate::daemon::{Daemon, eval, run, shell};
use crate::fake::{Fake, Key};

const KEY: Key = (2, 1, 0);

#[tokio::test(flavor = "multi_thread")]
async fn long_lines_are_cut_bad_bytes_replaced_and_the_rest_is_whole() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    let script =
        r#"head -c 100000 /dev/zero | tr '\0' x; echo; printf 'caf\351\n'; printf 'no end'"#;
    run(&fake, KEY, shell(script)).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    let log = fake.log(KEY);
    assert_eq!(log.len(), 3, "{log:?}");
    assert!(
        log[0].len() <= LOG_LINE_MAX_BYTES
            && log[0].ends_with("[marquee] line cut, it was too long")
    );
    assert_eq!(log[1..], ["caf\u{fffd}", "no end"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_too_large_ends_with_the_number_of_bytes_dropped() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    // 70 MiB of lines of 1 KiB with their ends.
    let script = r"head -c 71680 /dev/zero | tr '\0' '\n' | sed 's/^/'$(head -c 1023 /dev/zero | tr '\0' y)'/'";
    run(&fake, KEY, shell(script)).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    let log = fake.log(KEY);
    let (own, lines): (Vec<_>, Vec<_>) = log.iter().partition(|line| line.starts_with("[marquee]"));
    assert_eq!(lines.len(), 64 * 1024 * 1024 / 1023);
    // With the ends of the lines.
    let dropped = (71_680 - lines.len()) * 1024;
    assert_eq!(own.len(), 2, "{own:?}");
    assert!(own[0].contains("64 MiB"), "{own:?}");
    assert!(own[1].contains(&dropped.to_string()), "{own:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unacknowledged_reports_are_limited_and_sent_again_when_asked() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    fake.change(|state| state.silent = true);
    daemon.install("marquee-trainer", r#"
        n=0; while [ $n -lt 3000 ]; do n=$((n+1)); echo '{"event":"metrics","step":'$n',"values":{"v":1}}' >&$MARQUEE_EVENTS_FD; done
        echo '{"event":"finished","summary":{}}' >&$MARQUEE_EVENTS_FD"#);
    run(&fake, KEY, eval()).await;
    let stored = |state: &crate::fake::State| state.reports.get(&KEY).map_or(0, Vec::len);
    fake.until("as many as may be under way", |s| {
        stored(s) >= REPORTS_IN_FLIGHT_MAX
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stored(&fake.state()), REPORTS_IN_FLIGHT_MAX);
    fake.change(|state| state.silent = false);
    fake.break_session();
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    let steps: Vec<u64> = fake
        .bodies(KEY)
        .iter()
        .filter_map(|body| match body {
            Body::Metrics(metrics) => Some(metrics.step),
            _ => None,
        })
        .collect();
    assert_eq!(steps, (1..=3000).collect::<Vec<_>>());
    assert_eq!(fake.state().gaps, 0);
}
