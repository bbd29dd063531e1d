//! Weights that the world publishes, brought into safetensors files under timm's names.
//!
//! A PyTorch checkpoint is a pickle, and a pickle is a program. Invariant: here it is read as data. The reader knows
//! the few things of which tensors are made. All else is inert: it is left out by name where it lies beside the
//! weights, and refused by name among them. Nothing a file says is ever run, and no length that a file claims is
//! believed before it is compared with what is there.
//!
//! Not here: networks and libtorch. What fits which network is the trainer's to say.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

mod import;
mod names;
mod pickle;
mod tensor;
mod torch;

pub use import::{Import, Imported, Note, Source, import, read};
pub use names::{Renamed, to_timm};
pub use tensor::{Dtype, Tensor, Tensors};
pub use torch::{Format, read_torch};

/// Why weights could not be read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file is none that we read, is torn, or contradicts itself.
    #[error("{0}")]
    Damaged(String),
    /// Among its weights the pickle asks for something of which no tensor is made.
    #[error(
        "among its weights the file asks to use {name:?}, which no tensor needs; it was not run. {}",
        way_out(name)
    )]
    Forbidden {
        /// Module and name, such as `os.system`.
        name: String,
    },
    /// There is no such file, or it cannot be written.
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

/// A whole pickled model is a common mistake; anything else is no checkpoint to trust.
fn way_out(name: &str) -> &'static str {
    let is_model_code = ["torch.nn.", "torchvision.", "timm.", "__main__."]
        .iter()
        .any(|start| name.starts_with(start));
    if is_model_code {
        "It seems to hold a whole model; save model.state_dict() instead"
    } else {
        "Import files of tensors alone, from people you trust"
    }
}

impl WeightsError {
    fn damaged(problem: impl Into<String>) -> Self {
        Self::Damaged(problem.into())
    }
}

/// Result of reading weights.
pub type Result<T> = std::result::Result<T, WeightsError>;

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> WeightsError {
    let path = path.to_path_buf();
    |error| WeightsError::Io { path, error }
}

/// Writes `bytes` aside, syncs them and renames: a file under its own name is whole.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    // Named after the process, so that two imports into one folder do not write into one file.
    let aside = path.with_extension(format!("{}.part", std::process::id()));
    let write = || {
        let mut file = fs::File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().map_err(io_error(path))
}
