//! A job's metrics, point by point.

use std::time::Duration;

use marquee_proto::v1::{self, MetricPoint};
use marquee_view::units;
use tonic::Status;

use super::resume::{Patience, Resume};
use crate::client::Remote;
use crate::error::Result;

/// Hands each point on as it comes, over broken connections, none twice.
pub(crate) async fn each(
    remote: &Remote,
    request: v1::MetricsRequest,
    mut take: impl FnMut(MetricPoint) -> Result<()>,
) -> Result<()> {
    let mut seen = Resume::default();
    let mut patience = Patience::new(remote.is_quiet());
    loop {
        let status = match stream(remote, &request, &mut take, &mut seen, &mut patience).await? {
            Ok(()) => return Ok(()),
            Err(status) => status,
        };
        if !remote.may_pass(&status) || patience.is_over() {
            return Err(remote.error(&status, patience.tries(), Duration::ZERO));
        }
        patience.pause().await;
    }
}

async fn stream(
    remote: &Remote,
    request: &v1::MetricsRequest,
    take: &mut impl FnMut(MetricPoint) -> Result<()>,
    seen: &mut Resume<(u32, u32, String)>,
    patience: &mut Patience,
) -> Result<Result<(), Status>> {
    let mut points = match remote.jobs().metrics(request.clone()).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    seen.start_over();
    loop {
        let point = match points.message().await {
            Ok(Some(point)) => point,
            Ok(None) => return Ok(Ok(())),
            Err(status) => return Ok(Err(status)),
        };
        patience.renew();
        let at = units::time(point.at.as_ref()).unwrap_or_default();
        if seen.is_new((point.attempt, point.rank, point.name.clone()), at) {
            take(point)?;
        }
    }
}
