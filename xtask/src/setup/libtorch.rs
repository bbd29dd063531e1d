//! The libtorch of each flavour of the trainer: the user's own by a variable, else the pinned wheels
//! in the cache folder.
//!
//! tch leaves its own version check out when a libtorch comes from a wheel, so it is made here: a
//! wrong version would otherwise show up as pages of C++ errors, or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::bundle;
use super::pins::{Bundle, LIBTORCH, LIBTORCH_KEPLER};
use crate::report;

/// What one flavour is built with.
#[derive(Debug)]
pub(super) struct Release {
    /// Names a libtorch of the user's own.
    variable: &'static str,
    /// Major and minor release that the bindings are generated for.
    wanted: &'static str,
    bundle: &'static Bundle,
}

pub(super) const CURRENT: Release = Release {
    variable: "LIBTORCH",
    wanted: "2.11",
    bundle: &LIBTORCH,
};

pub(super) const KEPLER: Release = Release {
    variable: "LIBTORCH_KEPLER",
    wanted: "2.0",
    bundle: &LIBTORCH_KEPLER,
};

impl Release {
    /// The folder for the variable LIBTORCH of a build.
    pub(super) fn ensure(&self) -> Result<PathBuf> {
        let (variable, wanted) = (self.variable, self.wanted);
        if let Some(folder) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
            let folder = PathBuf::from(folder);
            self.check(&folder).with_context(|| {
                format!(
                    "{variable} is set to {} but cannot be used; point it to a libtorch {wanted}, or unset it to have one fetched",
                    folder.display()
                )
            })?;
            return Ok(folder);
        }
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            bail!(
                "{} is pinned for Linux on x86-64 only; on this machine set {variable} to the torch folder of an installed torch {wanted}",
                self.bundle.what
            );
        }
        let folder = bundle::ensure(self.bundle)
            .with_context(|| format!("no libtorch; mend what follows, or set {variable} to a libtorch {wanted} that you have"))?
            .join("torch");
        // Also of what we fetched ourselves: a pin may have been changed, and this place forgotten.
        self.check(&folder)?;
        Ok(folder)
    }

    /// What `ensure` is about to do, for a person to read first.
    pub(super) fn plan(&self) -> String {
        let Self {
            variable, bundle, ..
        } = self;
        if let Ok(folder) = std::env::var(variable) {
            return format!("use the libtorch in {folder} ({variable} is set)");
        }
        match bundle::find(bundle) {
            Ok(Some(folder)) => format!("use {} in {}", bundle.what, folder.display()),
            Ok(None) | Err(_) => format!(
                "fetch {} with pip, {}, hash-checked, into the user's cache folder",
                bundle.what,
                report::megabytes(bundle.download_bytes())
            ),
        }
    }

    fn check(&self, folder: &Path) -> Result<()> {
        // Build scripts run in other folders than the user's, and would look for it there.
        if !folder.is_absolute() {
            bail!("{} is not an absolute path", folder.display());
        }
        for needed in ["include", "lib/libtorch_cpu.so", "lib/libc10.so"] {
            if !folder.join(needed).exists() {
                bail!("{} has no {needed}", folder.display());
            }
        }
        let (version, wanted) = (version(folder)?, self.wanted);
        if !version.starts_with(&format!("{wanted}.")) {
            bail!(
                "{} holds libtorch {version}, not {wanted}",
                folder.display()
            );
        }
        Ok(())
    }
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
        CURRENT.check(&good).unwrap();
        let message = KEPLER.check(&good).unwrap_err().to_string();
        assert!(message.contains("not 2.0"), "{message}");

        let old = folder("old", &whole);
        fs::create_dir_all(old.join("include/torch/headeronly")).unwrap();
        fs::write(
            old.join("include/torch/headeronly/version.h"),
            "#define TORCH_VERSION \"2.1.2\"\n",
        )
        .unwrap();
        let message = CURRENT.check(&old).unwrap_err().to_string();
        assert!(
            message.contains("2.1.2") && message.contains("not 2.11"),
            "{message}"
        );

        let headers_only = folder("headers", &[("include/x.h", "")]);
        let message = CURRENT.check(&headers_only).unwrap_err().to_string();
        assert!(message.contains("libtorch_cpu.so"), "{message}");

        for folder in [good, old, headers_only] {
            fs::remove_dir_all(folder).unwrap();
        }
    }
}
