//! Takes the web page into the program: what `web/` was built to, if it was. Nothing is built here; `cargo xtask`
//! does that before.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    // The folder is always there, so that cargo sees when the page appears in it.
    let dist = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../web/dist")
        .canonicalize()?;
    println!("cargo:rerun-if-changed={}", dist.display());
    let page = dist.join("page");
    let mut files = Vec::new();
    if page.join("index.html").is_file() {
        collect(&page, &mut files)?;
    }
    // In order: the same page gives the same program, whatever the file system lists first.
    files.sort();
    let mut code = String::from("pub(super) static FILES: &[File] = &[\n");
    for file in files {
        let path = file.strip_prefix(&page)?.display().to_string();
        // It comes with the file that it is packed from.
        if path.ends_with(".gz") {
            continue;
        }
        let packed = file.with_file_name(format!(
            "{}.gz",
            file.file_name().unwrap_or_default().to_string_lossy()
        ));
        let packed = if packed.is_file() {
            format!("Some(include_bytes!({packed:?}))")
        } else {
            "None".to_owned()
        };
        writeln!(
            code,
            "    File {{ path: {path:?}, bytes: include_bytes!({file:?}), packed: {packed} }},"
        )?;
    }
    code += "];\n";
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    fs::write(out.join("page.rs"), code)?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
