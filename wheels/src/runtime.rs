//! The libraries that a host's trainer loads, in the folder where it looks for them: `torch/lib` and, beside it,
//! `nvidia/*/lib`, which find each other by place.
//!
//! Invariant: a folder with a stamp holds what the stamp says, whole. The stamp goes before anything is changed and
//! comes back last, so that an installation that was killed is known for one, and the next one mends it.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result};

use crate::bundle::{self, Source};
use crate::pins::{Bundle, LIBTORCH_KEPLER_GPU, RUNTIME_CPU, RUNTIME_CU130};
use crate::{cache, pip};

/// What is replaced as a whole; anything else in the folder is somebody else's.
const PARTS: [&str; 2] = ["torch", "nvidia"];

/// For which devices a host's trainer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    Cpu,
    /// Compute capability 7.5 and newer, driver 580 and newer.
    Cu130,
    /// Compute capability 3.7 and 5.0 to 8.9, driver 450 and newer; the trainer is another build.
    Kepler,
}

impl Flavour {
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Cu130, Self::Kepler];

    #[must_use]
    pub fn bundle(self) -> &'static Bundle {
        match self {
            Self::Cpu => &RUNTIME_CPU,
            Self::Cu130 => &RUNTIME_CU130,
            Self::Kepler => &LIBTORCH_KEPLER_GPU,
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cu130 => "cu130",
            Self::Kepler => "kepler",
        })
    }
}

impl FromStr for Flavour {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Self::ALL
            .into_iter()
            .find(|known| known.to_string() == word);
        known.ok_or_else(|| "the flavours are cpu, cu130 and kepler".to_owned())
    }
}

/// What an installation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    Now,
    /// All of it was there.
    Before,
}

/// Puts a flavour's libraries into `to`, in place of what was there of another one.
pub fn install(flavour: Flavour, source: Source<'_>, to: &Path) -> Result<Installed> {
    put(flavour.bundle(), source, to)
}

fn put(bundle: &Bundle, source: Source<'_>, to: &Path) -> Result<Installed> {
    let lock = cache::lock(to)?;
    if bundle::is_complete(bundle, to) {
        return Ok(Installed::Before);
    }
    // Beside its place, so that what comes last is a rename.
    let partial = to.join(".runtime.partial");
    let done = bundle::unpack(bundle, source, &partial, &lock).and_then(|unpacked| {
        let stamp = to.join(bundle::STAMP);
        // From here on the folder is not whole, until the new stamp comes last.
        if stamp.exists() {
            fs::remove_file(&stamp)?;
        }
        for part in PARTS {
            let place = to.join(part);
            match unpacked.join(part).exists() {
                // Programs that run keep the files they have open.
                true => bundle::swap_in(&unpacked.join(part), &place)?,
                false => bundle::remove(&place)?,
            }
        }
        Ok(fs::rename(unpacked.join(bundle::STAMP), stamp)?)
    });
    bundle::remove(&partial)?;
    done.with_context(|| format!("cannot put {} into {}", bundle.what, to.display()))?;
    Ok(Installed::Now)
}

/// Fetches a flavour's wheels into a folder, from which [`Source::Folder`] takes them on a host without internet.
pub fn download(flavour: Flavour, to: &Path) -> Result<()> {
    let lock = cache::lock(to)?;
    let partial = to.join(".runtime.partial");
    bundle::remove(&partial)?;
    let done = flavour.bundle().wheels.iter().try_for_each(|wheel| {
        fs::create_dir_all(&partial)?;
        let archive = pip::download(wheel, Source::Index, &partial, &lock)?;
        let name = archive.file_name().context("a file has a name")?;
        // Under its own name only when pip has verified it: the folder is carried to hosts that
        // cannot fetch it again.
        fs::rename(&archive, to.join(name))?;
        Ok(())
    });
    bundle::remove(&partial)?;
    done
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;
    use crate::pins::Wheel;
    use crate::{process, tools};

    /// Writes a wheel of one library that holds `text`, and prints its hash.
    const MAKE: &str = r#"
import hashlib, sys, zipfile
folder, text = sys.argv[1:]
name = folder + "/marquee_tiny-1.0-py3-none-manylinux_2_17_x86_64.whl"
with zipfile.ZipFile(name, "w") as wheel:
    def put(path, data):
        wheel.writestr(zipfile.ZipInfo(path), data)
    put("torch/lib/libtiny.so", text)
    put("marquee_tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: marquee-tiny\nVersion: 1.0\n")
    put("marquee_tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-manylinux_2_17_x86_64\n")
    put("marquee_tiny-1.0.dist-info/RECORD", "")
print(hashlib.sha256(open(name, "rb").read()).hexdigest(), end="")
"#;

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _best_effort = fs::remove_dir_all(&self.0);
        }
    }

    fn wheel(folder: &Path, text: &str) -> String {
        fs::create_dir_all(folder).unwrap();
        let mut make = Command::new("python3");
        process::read(make.args(["-c", MAKE]).arg(folder).arg(text)).unwrap()
    }

    /// Pins live as long as the program.
    fn pinned(sha256: String) -> &'static Bundle {
        let wheel = Wheel {
            package: "marquee-tiny",
            version: "1.0",
            bytes: 1_000,
            sha256: sha256.leak(),
            platform: "manylinux_2_17_x86_64",
            keep: &["torch/lib/*.so"],
        };
        Box::leak(Box::new(Bundle {
            what: "a tiny library",
            folder: "tiny",
            wheels: vec![wheel].leak(),
            unpacked_bytes: 1_000,
        }))
    }

    #[test]
    fn a_folder_of_wheels_gives_what_is_pinned_and_nothing_else() {
        if tools::require_pip().is_err() {
            eprintln!("skipped: python3 has no pip");
            return;
        }
        let scratch = std::env::temp_dir().join(format!("marquee-runtime-{}", std::process::id()));
        let scratch = Scratch(scratch);
        let (wheels, to) = (scratch.0.join("wheels"), scratch.0.join("lib"));
        let bundle = pinned(wheel(&wheels, "one"));
        let library = to.join("torch/lib/libtiny.so");
        let install = || put(bundle, Source::Folder(&wheels), &to);
        // What another flavour left is gone, and what is no part of a runtime stays.
        for file in ["torch/lib/libold.so", "nvidia/old/lib/libold.so", "own.so"] {
            let file = to.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "old").unwrap();
        }
        assert_eq!(install().unwrap(), Installed::Now);
        assert_eq!(fs::read_to_string(&library).unwrap(), "one");
        assert!(!to.join("torch/lib/libold.so").exists() && !to.join("nvidia").exists());
        assert!(to.join("own.so").exists());
        assert_eq!(install().unwrap(), Installed::Before);

        // Another file by the same name is refused, and what was there stays.
        wheel(&wheels, "two");
        fs::remove_file(to.join(bundle::STAMP)).unwrap();
        let refused = format!("{:#}", install().unwrap_err());
        assert!(
            refused.contains("marquee-tiny 1.0") && refused.contains("HASHES"),
            "{refused}"
        );
        assert_eq!(fs::read_to_string(&library).unwrap(), "one");
        assert!(!to.join(".runtime.partial").exists());
    }

    #[test]
    fn a_flavour_is_read_by_its_name_and_others_are_refused_with_all_names() {
        for flavour in Flavour::ALL {
            assert_eq!(flavour.to_string().parse(), Ok(flavour));
        }
        assert!("cuda".parse::<Flavour>().unwrap_err().contains("cu130"));
    }
}
