//! libtorch 2.11: the user's own by LIBTORCH, else the pinned wheels in the cache folder.
//!
//! tch leaves its own version check out when a libtorch comes from a wheel, so it is made here: a
//! wrong version would otherwise show up as pages of C++ errors, or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::bundle;
use super::pins::LIBTORCH;
use crate::report;

/// Major and minor release that the bindings are generated for.
const WANTED: &str = "2.11";

/// The folder for the variable LIBTORCH.
pub(crate) fn ensure() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("LIBTORCH").filter(|value| !value.is_empty()) {
        let folder = PathBuf::from(folder);
        check(&folder).with_context(|| {
            format!(
                "LIBTORCH is set to {} but cannot be used; point it to a libtorch {WANTED}, or unset it to have one fetched",
                folder.display()
            )
        })?;
        return Ok(folder);
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!(
            "{} is pinned for Linux on x86-64 only; on this machine set LIBTORCH to the torch folder of an installed torch {WANTED}",
            LIBTORCH.what
        );
    }
    let folder = bundle::ensure(&LIBTORCH)
        .with_context(|| format!("no libtorch; mend what follows, or set LIBTORCH to a libtorch {WANTED} that you have"))?
        .join("torch");
    check(&folder)?;
    Ok(folder)
}

/// What `ensure` is about to do, for a person to read first.
pub(super) fn plan() -> String {
    if let Ok(folder) = std::env::var("LIBTORCH") {
        return format!("use the libtorch in {folder} (LIBTORCH is set)");
    }
    match bundle::find(&LIBTORCH) {
        Ok(Some(folder)) => format!("use {} in {}", LIBTORCH.what, folder.display()),
        Ok(None) | Err(_) => format!(
            "fetch {} with pip, {}, hash-checked, into the user's cache folder",
            LIBTORCH.what,
            report::megabytes(LIBTORCH.download_bytes())
        ),
    }
}

fn check(folder: &Path) -> Result<()> {
    if !folder.is_absolute() {
        bail!("{} is not an absolute path", folder.display());
    }
    for needed in ["include", "lib/libtorch_cpu.so", "lib/libc10.so"] {
        if !folder.join(needed).exists() {
            bail!("{} has no {needed}", folder.display());
        }
    }
    let version = version(folder)?;
    if !version.starts_with(&format!("{WANTED}.")) {
        bail!(
            "{} holds libtorch {version}, not {WANTED}",
            folder.display()
        );
    }
    Ok(())
}

/// From whichever of the three places a wheel or an archive keeps it in.
fn version(folder: &Path) -> Result<String> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let quoted_after = |text: String, start: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(start))?;
        let value = line.trim().trim_matches(['\'', '"']);
        Some(value.to_owned())
    };
    read("build-version")
        .map(|text| text.trim().to_owned())
        .or_else(|| quoted_after(read("version.py")?, "__version__ ="))
        .or_else(|| {
            let header = read("include/torch/headeronly/version.h")
                .or_else(|| read("include/torch/csrc/api/include/torch/version.h"))?;
            quoted_after(header, "#define TORCH_VERSION ")
        })
        .with_context(|| {
            format!(
                "{} does not say which version it is (no build-version, version.py or version.h)",
                folder.display()
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("marquee-libtorch-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn another_version_and_a_folder_that_is_none_are_refused_by_name() {
        let whole = [
            ("include/x.h", ""),
            ("lib/libtorch_cpu.so", ""),
            ("lib/libc10.so", ""),
        ];
        let good = folder("good", &whole);
        fs::write(good.join("version.py"), "__version__ = '2.11.0+cu130'\n").unwrap();
        check(&good).unwrap();

        let old = folder("old", &whole);
        fs::create_dir_all(old.join("include/torch/headeronly")).unwrap();
        fs::write(
            old.join("include/torch/headeronly/version.h"),
            "#define TORCH_VERSION \"2.1.2\"\n",
        )
        .unwrap();
        let message = check(&old).unwrap_err().to_string();
        assert!(
            message.contains("2.1.2") && message.contains("not 2.11"),
            "{message}"
        );

        let headers_only = folder("headers", &[("include/x.h", "")]);
        let message = check(&headers_only).unwrap_err().to_string();
        assert!(message.contains("libtorch_cpu.so"), "{message}");

        for folder in [good, old, headers_only] {
            fs::remove_dir_all(folder).unwrap();
        }
    }
}
