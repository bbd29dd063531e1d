//! Worker sessions: one bidirectional stream for each connected worker.

/// The workers that are connected to this process.
#[derive(Debug, Clone, Default)]
pub struct Sessions {}
