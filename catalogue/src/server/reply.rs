//! What goes back to a client: whole, cut short, or "you have it".

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures::{StreamExt, stream};
use serde_json::Value;

use crate::answers;

pub(super) const INVALID_KEY: &str = "Invalid API key: You must be granted a valid key.";
pub(super) const NOT_FOUND: &str = "The resource you requested could not be found.";
const JSON: &str = "application/json;charset=utf-8";
/// Between the half of a truncated answer and the end of its connection.
const CUT_AFTER: Duration = Duration::from_millis(50);

/// An answer before a fault befalls it.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn json(body: &Value) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: JSON,
            body: body.to_string().into_bytes(),
        }
    }

    pub(super) fn problem(status: StatusCode, code: u32, message: &str) -> Self {
        Self {
            status,
            ..Self::json(&answers::problem(code, message))
        }
    }

    pub(super) fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, self.content_type.parse().expect("it is ours"));
        response
    }

    /// The whole body, in some drops.
    pub(super) fn into_drops(self) -> Response {
        const DROPS: usize = 4;
        let size = self.body.len().div_ceil(DROPS).max(1);
        let drops: Vec<_> = self.body.chunks(size).map(Bytes::copy_from_slice).collect();
        let mut response = Self {
            body: Vec::new(),
            ..self
        }
        .into_response();
        let drops = stream::iter(drops).then(|drop| async {
            tokio::time::sleep(CUT_AFTER).await;
            Ok::<_, io::Error>(drop)
        });
        *response.body_mut() = Body::from_stream(drops);
        response
    }

    /// Announces the whole body, sends `bytes` of it, and lets the connection end.
    pub(super) fn into_part_of_a_response(self, bytes: usize) -> Response {
        // The whole length is announced, or the client would take the half for all.
        let announced = self.body.len();
        let half = Bytes::copy_from_slice(&self.body[..bytes.min(announced)]);
        let mut response = Self {
            body: Vec::new(),
            ..self
        }
        .into_response();
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, announced.into());
        let cut = async {
            // Long enough that the half is on its way before the connection ends.
            tokio::time::sleep(CUT_AFTER).await;
            Err(io::Error::other("a fault was asked for"))
        };
        let parts = stream::once(async { Ok(half) }).chain(stream::once(cut));
        *response.body_mut() = Body::from_stream(parts);
        response
    }
}

/// Whether the request says that it has what `etag` stands for.
pub(super) fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get(IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|known| known == etag)
}

pub(super) fn not_modified(etag: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    with_etag(response, etag)
}

pub(super) fn with_etag(mut response: Response, etag: &str) -> Response {
    if let Ok(value) = etag.parse() {
        response.headers_mut().insert(ETAG, value);
    }
    response
}
