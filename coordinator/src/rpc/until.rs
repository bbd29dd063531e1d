//! An answer that ends with the right to it: streams go on for hours, and a token that is revoked must end them too.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use marquee_proto::error::ErrorCode;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::HeaderMap;

use crate::users::Open;

/// A body that ends with an error once its user is nobody any more.
pub(super) struct Until {
    inner: Body,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    expires: Option<Pin<Box<Sleep>>>,
    has_ended: bool,
    /// It counts among its user's open requests for so long.
    _open: Open,
}

impl Until {
    /// `left` is how long its user's token lives; None: he has none.
    pub(super) fn new(
        inner: Body,
        over: CancellationToken,
        left: Option<Duration>,
        open: Open,
    ) -> Self {
        Self {
            inner,
            over: Box::pin(over.cancelled_owned()),
            expires: left.map(|left| Box::pin(tokio::time::sleep(left))),
            has_ended: false,
            _open: open,
        }
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let is_revoked = self.over.as_mut().poll(cx).is_ready();
        let expires = self.expires.as_mut();
        is_revoked || expires.is_some_and(|expires| expires.as_mut().poll(cx).is_ready())
    }
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        // Before what comes next, which may always be there already.
        if !self.is_over(cx) {
            return Pin::new(&mut self.inner).poll_frame(cx);
        }
        self.has_ended = true;
        let status = ErrorCode::NotLoggedIn.status(
            "log in again: the token or session of this stream has ended, or its user has other roles now",
        );
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(match status.add_header(&mut trailers) {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(status) => Err(status),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
