//! The Debian that all hosts start from: made once by debootstrap, kept in the user's cache folder, never changed
//! afterwards, since the hosts' disks are layers over it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use marquee_xtask::{process, report, setup};

const RELEASE: &str = "bookworm";
/// Another number for other contents: a folder of the cache under its final name is complete.
const FOLDER: &str = "cluster-bookworm-1";
/// What a bare host has, with Postgres, which a company would have somewhere.
const PACKAGES: [&str; 9] = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "iproute2",
    "iputils-ping",
    "ca-certificates",
    "openssl",
    "postgresql-15",
];

pub(super) fn ensure() -> Result<PathBuf> {
    let cache = setup::cache_folder()?;
    let image = cache.join(FOLDER);
    if image.is_dir() {
        return Ok(image);
    }
    if process::on_path("debootstrap").is_none() {
        bail!("debootstrap not found; install it: apt-get install -y debootstrap");
    }
    let what = format!(
        "set-up: Debian {RELEASE} for the hosts, 510 MB, into {}",
        image.display()
    );
    report::step(&what, || make(&cache, &image))?;
    Ok(image)
}

fn make(cache: &Path, image: &Path) -> Result<()> {
    fs::create_dir_all(cache)?;
    // With the process in its name, so that two runs at a time do not fill one folder.
    let partial = cache.join(format!(".{FOLDER}.{}.partial", std::process::id()));
    let made = bootstrap(&partial).and_then(|()| {
        fs::rename(&partial, image).with_context(|| format!("cannot make {}", image.display()))
    });
    if made.is_err() {
        super::remove(&partial)?;
    }
    made
}

fn bootstrap(partial: &Path) -> Result<()> {
    // In a mount namespace: what it mounts below the folder goes with it, however it ends.
    process::read(
        Command::new("unshare")
            .args(["--mount", "debootstrap", "--variant=minbase"])
            .arg(format!("--include={}", PACKAGES.join(",")))
            .arg(RELEASE)
            .arg(partial),
    )?;
    // Hosts have no way to an archive, and each is a machine of its own; a server runs where it is asked for.
    let tidy = "apt-get clean; rm -rf /var/lib/apt/lists/* /etc/machine-id; systemctl disable postgresql.service";
    process::read(
        Command::new("chroot")
            .arg(partial)
            .args(["sh", "-ec", tidy]),
    )?;
    Ok(())
}
