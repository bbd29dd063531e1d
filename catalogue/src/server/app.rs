//! What the routes of the server share.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::header::{AUTHORIZATION, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use marquee_datasets::clock::Clock;
use tokio::sync::Semaphore;

use super::bucket::Bucket;
use super::log::RequestLog;
use super::reply::{INVALID_KEY, Reply};
use crate::count::Counter;
use crate::faults::Faults;
use crate::film::GENERATOR_VERSION;
use crate::image_file::Painter;

/// The query of a request.
pub(super) type Params = axum::extract::Query<std::collections::HashMap<String, String>>;

#[derive(Debug)]
pub(super) struct App {
    pub(super) log: Option<RequestLog>,
    pub(super) counter: Counter,
    pub(super) painter: Painter,
    pub(super) limiter: Option<Mutex<Bucket>>,
    pub(super) seed: u64,
    pub(super) ceiling: f64,
    pub(super) key: Option<String>,
    pub(super) faults: Faults,
    /// Painting is pure computation: more at once than there are cores only adds memory.
    pub(super) painters: Semaphore,
    pub(super) address: SocketAddr,
    pub(super) clock: Clock,
}

impl App {
    pub(super) async fn painted(self: &Arc<Self>, position: usize, width: u32) -> Reply {
        let Ok(_permit) = self.painters.acquire().await else {
            return Reply::problem(StatusCode::INTERNAL_SERVER_ERROR, 11, "Internal error");
        };
        let painter = self.painter.clone();
        // Painting takes milliseconds of pure computation, which would hold up every other connection.
        let painted = tokio::task::spawn_blocking(move || painter.file(position, width));
        match painted.await {
            Ok(file) => Reply {
                status: StatusCode::OK,
                content_type: file.content_type,
                body: file.bytes,
            },
            Err(_) => Reply::problem(StatusCode::INTERNAL_SERVER_ERROR, 11, "Internal error"),
        }
    }

    pub(super) fn etag(&self, what: &str) -> String {
        format!("\"{GENERATOR_VERSION}-{}-{what}\"", self.seed)
    }

    /// The refusal of a request above the rate, if there is one.
    pub(super) fn over_the_limit(&self) -> Option<Response> {
        let mut bucket = self
            .limiter
            .as_ref()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if bucket.takes((self.clock)().timestamp()) {
            return None;
        }
        let message = format!(
            "Your request count ({}) is over the allowed limit of {}.",
            bucket.count, bucket.limit
        );
        let mut response =
            Reply::problem(StatusCode::TOO_MANY_REQUESTS, 25, &message).into_response();
        response.headers_mut().insert(RETRY_AFTER, 1.into());
        Some(response)
    }

    /// The answer to a request without the right key or above the rate, if this is one.
    pub(super) fn refuse(&self, headers: &HeaderMap, params: &Params) -> Option<Response> {
        // Before the key is looked at, so that guessing keys is held down, too.
        if let Some(refusal) = self.over_the_limit() {
            return Some(refusal);
        }
        let key = self.key.as_deref()?;
        let bearer = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let is_right =
            bearer == Some(key) || params.get("api_key").map(String::as_str) == Some(key);
        let refusal = || Reply::problem(StatusCode::UNAUTHORIZED, 7, INVALID_KEY).into_response();
        (!is_right).then(refusal)
    }
}
