//! What every answer to a browser says: what may be loaded and run, and by whom it may be shown.

use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue, header};

/// The page loads what it was built with, from here, and nothing else; no text becomes markup or program
/// (Trusted Types); nobody frames it.
const PAGE: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    font-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";
/// A report is a file that a job wrote. It has styles and pictures of its own, runs nothing, asks nobody, belongs to no
/// origin (`sandbox`), and is framed by the page alone.
const REPORT: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'self'";
/// Data is never a document.
const DATA: &str = "default-src 'none'; frame-ancestors 'none'; sandbox";

/// Of the page and its files.
pub(super) fn of_page(headers: &mut HeaderMap) {
    common(headers);
    set(headers, header::CONTENT_SECURITY_POLICY, PAGE);
}

/// Of a report that a job wrote.
pub(super) fn of_report(headers: &mut HeaderMap) {
    common(headers);
    set(headers, header::CONTENT_SECURITY_POLICY, REPORT);
    set(headers, header::CACHE_CONTROL, "private, no-cache");
}

/// Of messages and of words.
pub(super) fn of_data(headers: &mut HeaderMap) {
    common(headers);
    set(headers, header::CONTENT_SECURITY_POLICY, DATA);
    set(headers, header::CACHE_CONTROL, "no-store");
}

/// Without Strict-Transport-Security: it holds for every port of a host, and others may serve there without TLS.
fn common(headers: &mut HeaderMap) {
    set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, header::REFERRER_POLICY, "no-referrer");
    set(
        headers,
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    );
    set(
        headers,
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    );
}

pub(super) fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
