//! Commands that root runs for a daemon: what they leave behind has to be the daemon's account's.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{Gid, Uid, User, geteuid, initgroups, setgid, setuid};

/// Becomes the account that owns `folder`, where this process is root
/// and the owner is somebody else. Before any thread is started: it changes the whole process.
///
/// # Errors
/// When the kernel does not let it.
pub fn become_owner_of(folder: &Path) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let Ok(found) = std::fs::metadata(folder) else {
        return Ok(());
    };
    let (uid, gid) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
    if uid.is_root() {
        return Ok(());
    }
    // The groups first and the user last: without root's rights no group can be changed any more.
    match User::from_uid(uid)? {
        Some(user) => {
            let name = std::ffi::CString::new(user.name).map_err(io::Error::other)?;
            initgroups(&name, gid)?;
        }
        // An account without an entry must not keep root's other groups either.
        None => nix::unistd::setgroups(&[gid])?,
    }
    setgid(gid)?;
    setuid(uid)?;
    Ok(())
}
