//! What can go wrong, sorted into the failure classes of the child contract.
//!
//! Invariant: every error that leaves this crate has a class and a message that can be shown as it
//! is. The class decides whether the coordinator tries again.

use marquee_datasets::shards::ShardError;
use marquee_domain::FailureClass;
use marquee_evaluation::EvalError;

/// What libtorch refused to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TorchError {
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// A peer or the rendezvous store could not be reached.
    #[error("{0}")]
    Network(String),
    /// The GPU, or its driver.
    #[error("{0}")]
    Device(String),
    #[error("{0}")]
    Other(String),
}

/// What libtorch says when an allocation fails, on CPUs and on GPUs.
const MEMORY_WORDS: &[&str] = &[
    "can't allocate memory",
    "not enough memory",
    "out of memory",
];
/// What Gloo says when a peer is gone or hangs. Its errors reach us as plain exceptions.
const NETWORK_WORDS: &[&str] = &[
    "gloo",
    "by peer",
    "Broken pipe",
    "Timed out waiting",
    "Connection",
    "NCCL",
];
/// What CUDA's libraries say when the device fails.
const DEVICE_WORDS: &[&str] = &[
    "CUDA error",
    "CUDNN_STATUS_",
    "CUBLAS_STATUS_",
    "cuDNN error",
];

impl TorchError {
    /// Sorts an error of which only the text is known.
    pub(crate) fn from_text(text: String) -> Self {
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        // Memory first: "CUDA error: out of memory" names both, and is no fault of the device.
        if says(MEMORY_WORDS) {
            Self::OutOfMemory(text)
        } else if says(NETWORK_WORDS) {
            Self::Network(text)
        } else if says(DEVICE_WORDS) {
            Self::Device(text)
        } else {
            Self::Other(text)
        }
    }
}

impl From<tch::TchError> for TorchError {
    fn from(error: tch::TchError) -> Self {
        Self::from_text(error.to_string())
    }
}

/// Why a run ended without a result.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RunError {
    pub class: FailureClass,
    pub message: String,
}

impl RunError {
    pub(crate) fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }

    /// The job asks for something that cannot be.
    pub(crate) fn user(message: impl Into<String>) -> Self {
        Self::new(FailureClass::UserError, message)
    }

    /// An input is damaged or not what it should be.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self::new(FailureClass::BadInput, message)
    }

    /// This host did not do what it should, such as write a file.
    pub(crate) fn host(message: impl Into<String>) -> Self {
        Self::new(FailureClass::Crash, message)
    }

    /// The same error, with what was being done before it.
    #[must_use]
    pub(crate) fn during(self, what: &str) -> Self {
        Self {
            class: self.class,
            message: format!("{what}: {}", self.message),
        }
    }
}

/// The part of a C++ message that a user can read: without the stack trace that may follow.
fn first_lines(text: &str) -> &str {
    text.split("\nException raised from")
        .next()
        .unwrap_or(text)
        .trim()
}

impl From<TorchError> for RunError {
    fn from(error: TorchError) -> Self {
        match error {
            TorchError::OutOfMemory(text) => Self::new(
                FailureClass::OutOfMemory,
                format!(
                    "out of memory; lower batch_size or use more ranks: {}",
                    first_lines(&text)
                ),
            ),
            TorchError::Network(text) => Self::new(
                FailureClass::Collective,
                format!(
                    "a peer rank was lost or did not answer in time: {}",
                    first_lines(&text)
                ),
            ),
            TorchError::Device(text) => Self::new(
                FailureClass::DeviceFault,
                format!("the GPU failed: {}", first_lines(&text)),
            ),
            TorchError::Other(text) => Self::host(format!("libtorch: {}", first_lines(&text))),
        }
    }
}

impl From<tch::TchError> for RunError {
    fn from(error: tch::TchError) -> Self {
        TorchError::from(error).into()
    }
}

impl From<ShardError> for RunError {
    fn from(error: ShardError) -> Self {
        Self::input(error.to_string())
    }
}

impl From<EvalError> for RunError {
    fn from(error: EvalError) -> Self {
        let class = match &error {
            EvalError::UnknownLabel { .. } | EvalError::BadThreshold { .. } => {
                FailureClass::UserError
            }
            EvalError::Write { .. } | EvalError::Encode { .. } => FailureClass::Crash,
            EvalError::NoClasses
            | EvalError::Shape { .. }
            | EvalError::EmptyTest
            | EvalError::Overlap { .. }
            | EvalError::NotAProbability { .. }
            | EvalError::NotATruth { .. } => FailureClass::BadInput,
        };
        Self::new(class, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of(text: &str) -> FailureClass {
        RunError::from(TorchError::from_text(text.to_owned())).class
    }

    #[test]
    fn messages_of_libtorch_find_their_class() {
        let gloo = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711";
        assert_eq!(class_of(gloo), FailureClass::Collective);
        let memory = "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes";
        assert_eq!(class_of(memory), FailureClass::OutOfMemory);
        let device = "CUDA error: an illegal memory access was encountered";
        assert_eq!(class_of(device), FailureClass::DeviceFault);
        assert_eq!(
            class_of("mat1 and mat2 shapes cannot be multiplied"),
            FailureClass::Crash
        );
    }

    #[test]
    fn stack_traces_stay_out_of_messages() {
        let error = TorchError::Other(
            "no such op\nException raised from f at x.cpp:1\nframe #0".to_owned(),
        );
        assert_eq!(RunError::from(error).message, "libtorch: no such op");
    }
}
