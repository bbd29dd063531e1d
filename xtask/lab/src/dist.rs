//! `cargo xtask dist`: what is installed on hosts: Debian packages, and an archive with an install script for
//! other distributions.
//!
//! Everything is laid out in one folder first, from which both are made, so that they cannot differ. The Debian
//! packages are cargo-deb's work: what each holds stands in `deploy/packages/NAME.toml`.
//!
//! Invariant: results are made aside, and appear when all of them are right.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use marquee_xtask::setup::{self, Setup};
use marquee_xtask::workspace::{WITH_ALL, Workspace};
use marquee_xtask::{nccl_shim, process, report, web};

/// Built by cargo once, and kept in the user's cache folder.
const CARGO_DEB: &str = "3.8.0";
/// Whom Debian names as responsible.
const MAINTAINER: &str = "Marquee maintainers <marquee@localhost>";
const LICENCE: &str = "Apache-2.0";
/// What Debian wants to read in place of the licence itself.
const COPYRIGHT: &str = "Copyright 2026 the Marquee maintainers\n\n\
    Licensed under the Apache License, Version 2.0; on Debian systems its text is in\n\
    /usr/share/common-licenses/Apache-2.0. What is linked, with its licences, stands in NOTICE beside this file.\n";
/// Each package with its one line of description.
const PACKAGES: [(&str, &str); 4] = [
    (
        "marquee",
        "command line of the Marquee training orchestrator",
    ),
    (
        "marquee-coordinator",
        "coordinator of the Marquee training orchestrator",
    ),
    (
        "marquee-worker",
        "worker daemon of the Marquee training orchestrator",
    ),
    (
        "marquee-trainer",
        "trainer of the Marquee training orchestrator, with libtorch",
    ),
];
/// The packages of the workspace whose programs are installed. A release is built of these alone: beside the simulation,
/// cargo would give them the features that are for it, such as those of the store's tests, and the rest would take its time
/// for nobody.
const SHIPPED: [&str; 5] = [
    "marquee-cli",
    "marquee-coordinator",
    "marquee-worker",
    "marquee-datasets",
    "marquee-trainer",
];
/// The programs that are installed.
const PROGRAMS: [&str; 6] = [
    "marquee",
    "marquee-coordinator",
    "marquee-worker",
    "marquee-keeper",
    "marquee-prep",
    "marquee-trainer",
];
const DAEMONS: [&str; 2] = ["coordinator", "worker"];
/// Programs that only daemons start, with what they do.
const PARTS: [(&str, &str); 2] = [
    (
        "marquee-prep",
        "fetches and prepares data for Marquee's worker",
    ),
    (
        "marquee-trainer",
        "trains and evaluates networks for Marquee's worker",
    ),
];
/// The units of the worker's helper, in a folder of their own: cargo-deb looks for a package's units by half a name, and
/// would take the worker's for these.
const CAGE_UNITS: [&str; 2] = ["marquee-cage.socket", "marquee-cage@.service"];
/// Where the units and documents of `deploy/` expect programs; a package puts them below `/usr`.
const LOCAL: &str = "/usr/local/";
const PACKAGED: &str = "/usr/";

/// The options of `dist`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where the results go. None: `target/dist`.
    pub to: Option<PathBuf>,
    /// Take the development build, to try the packages.
    pub debug: bool,
    /// Make the archive alone.
    pub no_deb: bool,
    /// Make the packages alone.
    pub no_archive: bool,
    /// Leave the web page out, where it cannot be built.
    pub no_page: bool,
}

impl Options {
    /// Packages to try at once: of the development build, without an archive.
    pub(crate) fn quick(to: &Path) -> Self {
        Self {
            to: Some(to.to_owned()),
            debug: true,
            no_deb: false,
            no_archive: true,
            no_page: false,
        }
    }
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let setup = Setup::ensure()?;
    // The coordinator takes in what is there: without this, a checkout in which nobody built the page gives packages
    // without one, and nobody is told.
    if options.debug {
        web::build_if_possible(workspace);
    } else if !options.no_page {
        web::ensure(workspace).context("the web page cannot be built (--no-page leaves it out)")?;
    }
    let built = build(workspace, &setup, options.debug)?;
    let target = workspace
        .bin_dir
        .parent()
        .context("the target folder has a parent")?;
    let to = match &options.to {
        Some(to) => std::path::absolute(to)?,
        None => target.join("dist"),
    };
    // Beside the results' place, so that they are moved there by one rename.
    let work = target.join("dist.partial");
    remove(&work)?;
    let version = version(&built.join("marquee"))?;
    let tree = work.join(format!("marquee-{version}-x86_64-linux"));
    let results = work.join("results");
    fs::create_dir_all(&results)?;
    // Once for all results: the archive is this folder, and the packages are links to its files.
    report::step("dist: lay out the files", || {
        lay_out(workspace, &setup, &built, &tree)
    })?;
    if !options.no_deb {
        let cargo_deb = cargo_deb(workspace)?;
        for (name, description) in PACKAGES {
            report::step(&format!("dist: {name}.deb"), || {
                let stage = work.join("packages").join(name);
                let about = Package {
                    name,
                    description,
                    version: &version,
                };
                prepare_package(workspace, &tree, &stage, about)?;
                package(&cargo_deb, &stage, &results, options.debug)
            })?;
        }
        // Minutes of unpacking, for packages that nobody keeps.
        if !options.debug {
            lint(&results)?;
        }
    }
    if !options.no_archive {
        report::step("dist: archive", || archive(&tree, &results))?;
    }
    // Of the results as they are handed out, packages and archive together.
    sums(&results)?;
    match &options.to {
        // A folder of the user's may hold other things.
        Some(_) => copy_tree(&results, &to)?,
        None => {
            remove(&to)?;
            fs::rename(&results, &to)?;
        }
    }
    remove(&work)?;
    for file in files(&to)? {
        writeln!(std::io::stdout(), "{}", file.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The folder of the programs, built.
fn build(workspace: &Workspace, setup: &Setup, debug: bool) -> Result<PathBuf> {
    report::step("build: all programs", || {
        let mut command = workspace.cargo("build");
        if debug {
            // With the features of every build for tests, so that nothing is compiled twice.
            command.arg("--workspace");
        } else {
            command.arg("--release");
            for package in SHIPPED {
                command.args(["--package", package]);
            }
        }
        for program in PROGRAMS {
            command.args(["--bin", program]);
        }
        command.args(WITH_ALL);
        process::run(setup.apply(&mut command))
    })?;
    Ok(match debug {
        true => workspace.bin_dir.clone(),
        false => workspace.bin_dir.with_file_name("release"),
    })
}

/// What a program says after its name.
fn version(program: &Path) -> Result<String> {
    let said = process::read(Command::new(program).arg("--version"))?;
    let version = said.split_whitespace().nth(1);
    Ok(version
        .with_context(|| format!("{} says no version: {said}", program.display()))?
        .to_owned())
}

/// Everything that a host gets, as the archive has it.
fn lay_out(workspace: &Workspace, setup: &Setup, built: &Path, tree: &Path) -> Result<()> {
    let deploy = workspace.root.join("deploy");
    let bin = tree.join("bin");
    fs::create_dir_all(&bin)?;
    for program in PROGRAMS {
        let to = bin.join(program);
        copy(&built.join(program), &to)?;
        // Symbols help nobody who has no sources at hand, and are most of the file.
        process::read(Command::new("strip").arg("--strip-unneeded").arg(&to))?;
    }
    for daemon in DAEMONS {
        let unit = format!("marquee-{daemon}.service");
        copy(&deploy.join(&unit), &tree.join("units").join(&unit))?;
        for kind in ["sysusers.d", "tmpfiles.d"] {
            let file = format!("{kind}/marquee-{daemon}.conf");
            copy(&deploy.join(&file), &tree.join(&file))?;
        }
        let settings = format!("{daemon}.toml");
        copy(&deploy.join(&settings), &tree.join(&settings))?;
    }
    for unit in CAGE_UNITS {
        copy(&deploy.join(unit), &tree.join("units/cage").join(unit))?;
    }
    for file in ["LICENSE", "NOTICE", "CHANGELOG.md", "README.md"] {
        copy(&workspace.root.join(file), &tree.join(file))?;
    }
    copy(
        &deploy.join("packages/install.sh"),
        &tree.join("install.sh"),
    )?;
    for folder in ["docs", "deploy/slurm"] {
        let name = Path::new(folder).file_name().unwrap_or_default();
        copy_tree(&workspace.root.join(folder), &tree.join(name))?;
    }
    pages(&bin, tree)?;
    let lib = tree.join("lib/marquee");
    // For hosts with GPUs, where install-runtime adds what it is loaded beside.
    copy(&nccl_shim::build(workspace)?, &lib.join(nccl_shim::FILE))?;
    libraries(setup, &lib)
}

/// Manual pages and completions, as the programs themselves write them.
fn pages(bin: &Path, tree: &Path) -> Result<()> {
    let man = tree.join("man");
    let completions = tree.join("completions");
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let cli = bin.join("marquee");
    process::read(Command::new(&cli).arg("man").arg(&man))?;
    for daemon in DAEMONS {
        let program = format!("marquee-{daemon}");
        let page = process::read(Command::new(bin.join(&program)).arg("man"))?;
        fs::write(man.join(format!("{program}.8")), page)?;
    }
    for (program, what) in PARTS {
        let page = format!(
            ".TH {program} 8\n.SH NAME\n{program} \\- {what}\n.SH DESCRIPTION\n\
             .BR marquee-worker (8)\nstarts it for the jobs of a cluster; nobody else has to.\n\
             .SH SEE ALSO\n.BR marquee-worker (8)\n"
        );
        fs::write(man.join(format!("{program}.8")), page)?;
    }
    for (shell, file) in [
        ("bash", "marquee.bash"),
        ("zsh", "_marquee"),
        ("fish", "marquee.fish"),
    ] {
        let script = process::read(Command::new(&cli).args(["completions", shell]))?;
        fs::write(completions.join(file), script)?;
    }
    Ok(())
}

/// What the trainer loads: libtorch's CPU half, and what came with it. Headers are for building.
fn libraries(setup: &Setup, to: &Path) -> Result<()> {
    copy_tree(&setup.libtorch.join("lib"), &to.join("torch/lib"))?;
    let beside = setup.libtorch.parent().map(|folder| folder.join("nvidia"));
    match beside.filter(|folder| folder.is_dir()) {
        Some(nvidia) => copy_tree(&nvidia, &to.join("nvidia")),
        None => Ok(()),
    }
}

/// cargo-deb, which is built on first use.
fn cargo_deb(workspace: &Workspace) -> Result<PathBuf> {
    let root = setup::cache_folder()?.join(format!("cargo-deb-{CARGO_DEB}"));
    let program = root.join("bin/cargo-deb");
    if !program.is_file() {
        report::step(
            &format!("set-up: cargo-deb {CARGO_DEB} into {}", root.display()),
            || {
                let mut command = workspace.cargo("install");
                command.args(["cargo-deb", "--locked", "--version", CARGO_DEB, "--root"]);
                process::run(command.arg(&root))
            },
        )?;
    }
    if process::on_path("dpkg-shlibdeps").is_none() {
        bail!(
            "dpkg-shlibdeps not found; install it: apt-get install -y dpkg-dev (or make the archive alone: --no-deb)"
        );
    }
    Ok(program)
}

/// What a package is called and is.
struct Package<'a> {
    name: &'a str,
    description: &'a str,
    version: &'a str,
}

/// A folder of its own for each package, with a manifest that cargo-deb reads.
fn prepare_package(
    workspace: &Workspace,
    tree: &Path,
    stage: &Path,
    about: Package<'_>,
) -> Result<()> {
    let Package {
        name,
        description,
        version,
    } = about;
    link_tree(tree, stage)?;
    let packages = workspace.root.join("deploy/packages");
    let scripts = packages.join("scripts").join(name);
    if scripts.is_dir() {
        copy_tree(&scripts, &stage.join("scripts").join(name))?;
    }
    let of_daemons = DAEMONS.map(|daemon| format!("units/marquee-{daemon}.service"));
    let of_cage = CAGE_UNITS.map(|unit| format!("units/cage/{unit}"));
    for unit in of_daemons.iter().chain(&of_cage) {
        let unit = stage.join(unit);
        // The archive installs below /usr/local, where people put what no package manages; a
        // package may not.
        let text = fs::read_to_string(&unit)?.replace(LOCAL, PACKAGED);
        // A file of its own: the archive's is a link to the same one.
        fs::remove_file(&unit)?;
        fs::write(&unit, text)?;
    }
    let of_package = read(&packages.join(format!("{name}.toml")))?;
    // The keys of every package belong to the table that the package's own text ends in.
    let manifest = format!(
        "[package]\nname = {name:?}\nversion = {version:?}\nedition = \"2024\"\nlicense = {LICENCE:?}\n\
         description = {description:?}\n\n[lib]\npath = \"lib.rs\"\n\n[workspace]\n\n{of_package}\n\
         maintainer = {MAINTAINER:?}\nlicense-file = [\"copyright\", \"0\"]\nchangelog = \"changelog\"\n"
    );
    fs::write(stage.join("Cargo.toml"), manifest)?;
    // A crate with nothing in it: cargo-deb wants one, and what it packs is built already.
    fs::write(stage.join("lib.rs"), "")?;
    fs::write(stage.join("copyright"), COPYRIGHT)?;
    // Debian's changelog wants the date in this form, which no crate here writes.
    let now = process::read(Command::new("date").arg("--rfc-email"))?;
    let changelog = format!(
        "{name} ({version}-1) unstable; urgency=medium\n\n  * What is new stands in CHANGELOG.md.\n\n \
         -- {MAINTAINER}  {now}"
    );
    fs::write(stage.join("changelog"), changelog)?;
    Ok(())
}

fn package(cargo_deb: &Path, stage: &Path, results: &Path, quick: bool) -> Result<()> {
    let mut command = Command::new(cargo_deb);
    command
        .current_dir(stage)
        // Programs are built and stripped already, the same ones for packages and archive.
        .args(["--no-build", "--no-strip", "--output"])
        .arg(results)
        .arg("--manifest-path")
        .arg(stage.join("Cargo.toml"));
    // libtorch's 430 MB take xz half a minute of a core at its quickest and come to 89 MB; with its usual effort they take
    // more than four minutes.
    command.arg("--fast");
    if quick {
        // The system's gzip is many times as fast as the one within.
        command.args(["--compress-type", "gz", "--compress-system"]);
    }
    process::read(&mut command).map(drop)
}

/// Debian's own checker, where it is installed. What it calls an error is one.
fn lint(results: &Path) -> Result<()> {
    if process::on_path("lintian").is_none() {
        report::note("skipped: lintian is not installed (apt-get install -y lintian)");
        return Ok(());
    }
    report::step("dist: lintian", || {
        let packages = files(results)?;
        let output = Command::new("lintian")
            .args([
                "--fail-on",
                "error",
                "--tag-display-limit",
                "0",
                "--suppress-tags",
            ])
            .arg(TOLERATED.join(","))
            .args(&packages)
            .output()?;
        if !output.status.success() {
            bail!("lintian found errors\n{}", process::said(&output));
        }
        Ok(())
    })
}

/// Tags of lintian that are for packages of Debian itself: ours carries libtorch whole and as its makers ship it, by hash,
/// and is filed nowhere.
const TOLERATED: [&str; 6] = [
    "bogus-mail-host",
    "bogus-mail-host-in-debian-changelog",
    "embedded-library",
    "custom-library-search-path",
    "unstripped-binary-or-object",
    "initial-upload-closes-no-bugs",
];

fn archive(tree: &Path, results: &Path) -> Result<()> {
    let name = tree.file_name().context("the layout has a name")?;
    let folder = tree.parent().context("the layout has a folder")?;
    let mut file = results.join(name).into_os_string();
    file.push(".tar.gz");
    process::read(
        Command::new("tar")
            // Nothing of whoever built it: no account, and no order of a folder.
            .args(["--owner=0", "--group=0", "--sort=name", "-czf"])
            .arg(file)
            .arg("-C")
            .arg(folder)
            .arg(name),
    )
    .map(drop)
}

/// `SHA256SUMS`, which `sha256sum -c` reads.
fn sums(results: &Path) -> Result<()> {
    let names: Vec<_> = files(results)?
        .iter()
        .filter_map(|file| file.file_name().map(ToOwned::to_owned))
        .collect();
    let text = process::read(Command::new("sha256sum").current_dir(results).args(names))?;
    Ok(fs::write(results.join("SHA256SUMS"), text)?)
}

/// The files of a folder, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    each_file(from, to, &|from, to| copy(from, to))
}

/// The same files by other names: packages are many, and libtorch is large.
fn link_tree(from: &Path, to: &Path) -> Result<()> {
    each_file(from, to, &|from, to| {
        fs::hard_link(from, to).or_else(|_| copy(from, to))
    })
}

fn each_file(from: &Path, to: &Path, each: &dyn Fn(&Path, &Path) -> Result<()>) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in files(from)? {
        let Some(name) = entry.file_name() else {
            continue;
        };
        let to = to.join(name);
        // Links are followed: a package must hold what they lead to.
        match entry.is_dir() {
            true => each_file(&entry, &to, each)?,
            false => each(&entry, &to)?,
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
