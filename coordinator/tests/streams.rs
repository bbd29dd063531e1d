//! Streams of answers when their coordinator stops.

use marquee_proto::v1;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::support;
use crate::support::Cluster;

const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";

/// How a stream ends that was opened on a coordinator which then stops.
async fn end_of<T>(mut stream: tonic::Streaming<T>, stop: &CancellationToken) -> Option<Code> {
    stop.cancel();
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status.code()),
            }
        }
    };
    timeout(support::SOON, end).await.expect("the stream ends")
}

#[tokio::test]
async fn a_stream_that_a_stop_cuts_short_does_not_look_whole() {
    let cut = Some(Code::Unavailable);
    let mut cluster = Cluster::start().await;
    let job_id = cluster.submit(ONE).await[0].id;
    let job_ids = vec![job_id];
    for which in 0..4 {
        let mut jobs = cluster.jobs().await;
        let stop = cluster.app().shutdown.clone();
        let ended = match which {
            0 => {
                let follow = v1::LogsRequest {
                    job_id,
                    follow: true,
                    ..Default::default()
                };
                end_of(jobs.logs(follow).await.unwrap().into_inner(), &stop).await
            }
            1 => {
                let follow = v1::MetricsRequest {
                    job_id,
                    follow: true,
                    ..Default::default()
                };
                end_of(jobs.metrics(follow).await.unwrap().into_inner(), &stop).await
            }
            2 => {
                let watch = v1::WatchRequest {
                    job_ids: job_ids.clone(),
                    ..Default::default()
                };
                end_of(jobs.watch(watch).await.unwrap().into_inner(), &stop).await
            }
            _ => {
                // What had nothing more to tell ends as it always does.
                let all = v1::LogsRequest {
                    job_id,
                    ..Default::default()
                };
                let ended = end_of(jobs.logs(all).await.unwrap().into_inner(), &stop).await;
                assert_eq!(ended, None);
                cut
            }
        };
        assert_eq!(ended, cut, "stream {which}");
        cluster.kill().await;
        cluster.start_idle().await;
    }
}
