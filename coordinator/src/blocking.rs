//! Work that keeps a thread: reading and syncing files, planning.

use marquee_domain::env::is_played;
use tokio::task::{JoinError, spawn_blocking};

/// Runs `work` in a thread of its own. In a simulation it is done at once: which of two threads is done first
/// would be another each time.
///
/// # Errors
/// When `work` panics, or the coordinator ends meanwhile.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if is_played() {
        return Ok(work());
    }
    spawn_blocking(work).await
}
