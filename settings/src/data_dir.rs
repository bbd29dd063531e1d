//! Where a daemon keeps its data when nothing is said.

use std::ffi::OsString;
use std::path::PathBuf;

/// The service manager's state folder, else `/var/lib/marquee/ROLE` for root, else the user's usual
/// place; None where there is no home. `variable` reads the environment.
pub fn default_data_dir(
    role: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<PathBuf> {
    // First: under systemd it is the one folder that a hardened unit may write to.
    if let Some(folder) = variable("STATE_DIRECTORY") {
        return Some(folder.into());
    }
    if nix::unistd::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/marquee").join(role));
    }
    let data_home = variable("XDG_DATA_HOME").map(PathBuf::from);
    let home = || variable("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let folder = data_home.or_else(home)?;
    Some(folder.join("marquee").join(role))
}
