//! The files of the page, which are part of this program. Their names hold their digests, so that a browser may keep
//! them for ever; the page itself it asks for each time.

use bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Response, StatusCode, header};

use super::{headers, whole};

/// A file of the page.
#[derive(Debug)]
pub(super) struct File {
    path: &'static str,
    bytes: &'static [u8],
    /// The same, packed by gzip.
    packed: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// Shown where the page is missing.
const WITHOUT: &str = include_str!("without.html");
/// Where files with a digest in their name lie.
const KEPT: &str = "assets/";

/// The file at `path`; the page itself where there is none, since it reads its own addresses.
pub(super) fn serve(path: &str, asked: &HeaderMap) -> Response<Body> {
    let path = path.trim_start_matches('/');
    let file = find(path).or_else(|| {
        // A file that another version had is missing, and no page.
        (!path.starts_with(KEPT))
            .then(|| find("index.html"))
            .flatten()
    });
    let Some(file) = file else {
        if !FILES.is_empty() {
            return super::text(StatusCode::NOT_FOUND, "there is no such file");
        }
        let mut answer = Response::new(whole(Bytes::from_static(WITHOUT.as_bytes())));
        let headers = answer.headers_mut();
        headers::of_page(headers);
        headers::set(headers, header::CONTENT_TYPE, "text/html; charset=utf-8");
        headers::set(headers, header::CACHE_CONTROL, "no-store");
        return answer;
    };
    let packed = file.packed.filter(|_| takes_gzip(asked));
    let mut answer = Response::new(whole(Bytes::from_static(packed.unwrap_or(file.bytes))));
    let headers = answer.headers_mut();
    headers::of_page(headers);
    headers::set(headers, header::CONTENT_TYPE, content_type(file.path));
    let kept = if file.path.starts_with(KEPT) {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    headers::set(headers, header::CACHE_CONTROL, kept);
    // A cache on the way must not give the packed file to somebody who cannot unpack it.
    headers::set(headers, header::VARY, "Accept-Encoding");
    if packed.is_some() {
        headers::set(headers, header::CONTENT_ENCODING, "gzip");
    }
    answer
}

fn find(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

fn takes_gzip(asked: &HeaderMap) -> bool {
    let takes = asked.get(header::ACCEPT_ENCODING);
    let takes = takes.and_then(|value| value.to_str().ok()).unwrap_or("");
    takes.split(',').any(|one| {
        let mut parts = one.split(';').map(str::trim);
        parts.next() == Some("gzip") && parts.next().is_none_or(|weight| weight != "q=0")
    })
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_for_there_is_an_answer_with_the_walls_around_it() {
        for path in [
            "/",
            "/jobs/17",
            "/assets/none-12345678.js",
            "/../../etc/passwd",
            "/%2e%2e/",
        ] {
            let answer = serve(path, &HeaderMap::new());
            let policy = answer.headers()[header::CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap();
            assert!(
                policy.contains("default-src 'none'") && !policy.contains("unsafe"),
                "{path}: {policy}"
            );
            assert_eq!(
                answer.headers()[header::X_CONTENT_TYPE_OPTIONS],
                "nosniff",
                "{path}"
            );
        }
    }

    #[test]
    fn gzip_is_sent_to_who_takes_it() {
        for (says, takes) in [
            ("gzip, deflate, br", true),
            ("br;q=1.0, gzip;q=0.8", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("x-gzip", false),
        ] {
            let mut headers = HeaderMap::new();
            headers::set(&mut headers, header::ACCEPT_ENCODING, says);
            assert_eq!(takes_gzip(&headers), takes, "{says}");
        }
    }
}
