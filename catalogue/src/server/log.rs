//! Who wants to know of each request.

use std::sync::Arc;

/// Is told the path of each request, before its answer goes out.
#[derive(Clone)]
pub struct RequestLog(Arc<dyn Fn(&str) + Send + Sync>);

impl RequestLog {
    /// A log that `write` writes.
    pub fn new(write: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(write))
    }
}

impl RequestLog {
    pub(super) fn note(&self, path: &str) {
        (self.0)(path);
    }
}

impl std::fmt::Debug for RequestLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RequestLog")
    }
}
