//! Names the code: a digest of the sources of this crate, of the language it shares with others, and
//! of the versions of its dependencies. `marquee-prep code` says it, and steps are reused by it.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// What decides, besides the compiler, what a preprocess job makes. Relative to this crate.
const SOURCES: [&str; 3] = ["src", "../domain/src", "../Cargo.lock"];

fn main() -> Result<(), Box<dyn Error>> {
    let mut files = Vec::new();
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
        collect(Path::new(source), &mut files)?;
    }
    // Folders list their files in any order, and equal sources must have one name.
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let bytes = fs::read(&file)?;
        // Each part with its length, so that no two different trees read alike.
        for part in [file.to_string_lossy().as_bytes(), &bytes] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    // Eight bytes: it tells versions of our own code apart, and keeps nobody from forging one.
    let digest: String = hash.finalize()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    println!("cargo:rustc-env=MARQUEE_SOURCES={digest}");
    Ok(())
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}
