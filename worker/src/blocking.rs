//! Work that may block, such as reading and syncing files.

use marquee_domain::env::is_played;
use tokio::task::{JoinError, spawn_blocking};

/// Runs `work` in a thread where it may block. In a simulation it is done at once: which of two threads is
/// done first would be another each time.
///
/// # Errors
/// When `work` panics, or the daemon ends meanwhile.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if is_played() {
        return Ok(work());
    }
    spawn_blocking(work).await
}
