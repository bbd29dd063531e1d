//! The settings of a daemon: a TOML file, over it the environment, over it the command line; the
//! later wins.
//!
//! Invariant: only known keys get in, wherever they stand. An unknown one is refused with the known
//! one that was probably meant, and every error names the key and the place where it was written. A
//! value is never part of `Debug`: some are passwords.
//!
//! Not here: which keys there are, and what a value must be to make sense. The daemons know.

mod data_dir;
mod environment;
mod error;
mod file;
mod listing;
mod origin;
mod owner;
mod reread;
mod service;
mod values;

pub use data_dir::default_data_dir;
pub use environment::variables;
pub use error::SettingsError;
pub use listing::{Setting, as_toml};
pub use origin::Origin;
pub use owner::become_owner_of;
pub use reread::Reread;
pub use service::Service;
pub use values::Values;

/// Exit status of a daemon whose settings are wrong (`EX_CONFIG` of sysexits.h). The units in `deploy/` do not start it
/// again for it, as they do after any other failure.
pub const WRONG_SETTINGS: u8 = 78;
