//! The environment of this process.

use std::collections::HashMap;

/// Every variable. Of one that is no text, what cannot be read is a replacement character: who reads
/// its value shows it, or finds no such file, instead of going on as if it had not been set.
#[must_use]
pub fn variables() -> HashMap<String, String> {
    let text = |part: std::ffi::OsString| part.to_string_lossy().into_owned();
    std::env::vars_os()
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}
