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

/// What an answer of one message has: it, and its trailers. Whoever ends his own token or session is told that it worked.
const LAST_FRAMES: u8 = 2;

/// A body that ends with an error once its user is nobody any more.
pub(super) struct Until {
    inner: Body,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    expires: Option<Pin<Box<Sleep>>>,
    is_over: bool,
    has_ended: bool,
    /// Frames that may still come once it is over.
    left: u8,
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
            is_over: false,
            has_ended: false,
            left: LAST_FRAMES,
            _open: open,
        }
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.is_over {
            let is_revoked = self.over.as_mut().poll(cx).is_ready();
            let expires = self.expires.as_mut();
            self.is_over =
                is_revoked || expires.is_some_and(|expires| expires.as_mut().poll(cx).is_ready());
        }
        self.is_over
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
        let is_over = self.is_over(cx);
        if !is_over || self.left > 0 {
            let frame = Pin::new(&mut self.inner).poll_frame(cx);
            if frame.is_ready() && is_over {
                self.left -= 1;
            }
            // What has ended by itself has nothing to be told.
            self.has_ended = matches!(frame, Poll::Ready(None));
            if frame.is_ready() || !is_over {
                return frame;
            }
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tonic::Code;

    use super::*;

    fn ada() -> crate::users::Asker {
        crate::users::Asker::User("ada".into())
    }

    fn open() -> Open {
        crate::users::Users::default().flow().take(ada()).unwrap().0
    }

    /// What an answer has to say.
    enum Says {
        /// These words, and then it ends.
        Words(&'static [&'static str]),
        /// Always something more.
        Endless,
        /// Nothing, and it does not end.
        Nothing,
    }

    impl HttpBody for Says {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let frame =
                |word: &'static str| Some(Ok(Frame::data(Bytes::from_static(word.as_bytes()))));
            match &mut *self {
                Self::Words(words) => Poll::Ready(words.split_first().and_then(|(first, rest)| {
                    let found = frame(first);
                    *words = rest;
                    found
                })),
                Self::Endless => Poll::Ready(frame("more")),
                Self::Nothing => Poll::Pending,
            }
        }
    }

    fn until(says: Says, over: &CancellationToken, left: Option<Duration>) -> Until {
        Until::new(Body::new(says), over.clone(), left, open())
    }

    async fn next(body: &mut Pin<Box<Until>>) -> Option<Frame<Bytes>> {
        poll_fn(|cx| body.as_mut().poll_frame(cx))
            .await
            .map(Result::unwrap)
    }

    /// The data that came, and the status of the trailers that ended it.
    async fn read(body: Until) -> (usize, Option<Status>) {
        let mut body = Box::pin(body);
        let mut count = 0;
        let mut status = None;
        while let Some(frame) = next(&mut body).await {
            match frame.into_trailers() {
                Ok(trailers) => status = Status::from_header_map(&trailers),
                Err(_) => count += 1,
            }
        }
        assert!(body.is_end_stream());
        assert!(
            next(&mut body).await.is_none(),
            "after the end nothing comes"
        );
        (count, status)
    }

    #[tokio::test]
    async fn what_ends_by_itself_is_passed_on_as_it_is() {
        let body = until(
            Says::Words(&["a", "b", "c"]),
            &CancellationToken::new(),
            None,
        );
        let mut body = Box::pin(body);
        let mut seen = Vec::new();
        while let Some(frame) = next(&mut body).await {
            seen.extend(frame.into_data().unwrap());
        }
        assert_eq!(seen, b"abc");
    }

    #[tokio::test]
    async fn a_stream_whose_token_was_revoked_ends_with_the_word_that_says_so() {
        for says in [Says::Endless, Says::Nothing] {
            let over = CancellationToken::new();
            over.cancel();
            let (count, status) = read(until(says, &over, None)).await;
            assert!(count <= usize::from(LAST_FRAMES), "{count}");
            let status = status.unwrap();
            assert_eq!(status.code(), Code::Unauthenticated);
            assert!(status.message().contains("log in again"), "{status}");
        }
    }

    #[tokio::test]
    async fn whoever_ends_his_own_token_still_gets_the_whole_answer() {
        let over = CancellationToken::new();
        over.cancel();
        let answer = until(Says::Words(&["done"]), &over, None);
        let (count, status) = read(answer).await;
        assert_eq!(count, 1);
        assert!(status.is_none(), "{status:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_the_token_does_and_not_before() {
        let minute = Duration::from_secs(60);
        let body = until(Says::Nothing, &CancellationToken::new(), Some(minute));
        let begun = tokio::time::Instant::now();
        let (count, status) = read(body).await;
        assert_eq!(count, 0);
        assert_eq!(status.unwrap().code(), Code::Unauthenticated);
        assert_eq!(begun.elapsed().as_secs(), 60);
    }

    #[tokio::test]
    async fn a_stream_under_way_ends_when_the_right_to_it_does() {
        let over = CancellationToken::new();
        let mut body = Box::pin(until(Says::Endless, &over, None));
        for _ in 0..100 {
            assert!(next(&mut body).await.unwrap().is_data());
        }
        over.cancel();
        let mut left = 0;
        while let Some(frame) = next(&mut body).await {
            left += usize::from(frame.is_data());
        }
        assert!(left <= usize::from(LAST_FRAMES), "{left}");
    }

    #[tokio::test]
    async fn a_request_counts_as_open_until_its_answer_is_dropped() {
        let users = crate::users::Users::default();
        let mut held = Vec::new();
        while let Ok((open, _)) = users.flow().take(ada()) {
            held.push(open);
        }
        let place = held.pop().unwrap();
        let body = Until::new(
            Body::new(Says::Nothing),
            CancellationToken::new(),
            None,
            place,
        );
        assert!(users.flow().take(ada()).is_err());
        drop(body);
        assert!(users.flow().take(ada()).is_ok());
    }
}
