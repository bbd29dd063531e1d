//! `marquee-coordinator init`: an authority, and a certificate for this coordinator.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};

use super::authority::{self, Authority, Bundle, COORDINATOR_NAME, Files};

/// Names beside the fixed one that a certificate may have.
const NAMES_MAX: usize = 32;

/// What there is to know of the settings.
#[derive(Debug)]
pub struct Place {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    /// Host and port where workers and clients reach it; None: by the host's name.
    pub address: Option<String>,
    /// `[tls]` of the settings names certificates that were made elsewhere.
    pub has_other_certificates: bool,
    /// How long a certificate of this coordinator is good.
    pub certificate_life: TimeDelta,
}

/// Makes what is missing, and leaves what is there. Returns what to tell whoever asked.
pub fn init(place: &Place, more_names: &[String], now: DateTime<Utc>) -> anyhow::Result<String> {
    ensure!(
        !place.has_other_certificates,
        "key \"tls.cert\" names a certificate that was made elsewhere; leave tls.cert and tls.key out of coordinator.toml to have certificates made here (tls.client_ca may stay: its clients are let in too)"
    );
    let files = Files::of(&place.data_dir);
    let names = names(place, more_names)?;
    make_folders(place, &files)?;
    let (has_ca, has_key) = (files.ca().exists(), files.ca_key().exists());
    let (authority, made) = match (has_ca, has_key) {
        (true, true) => (Authority::open(&files)?, false),
        (false, false) if files.are_there() => bail!(
            "{:?} is there and its authority is not; put {:?} and {:?} back from a backup, or remove the folder to begin anew, after which every worker joins again",
            files.server(),
            files.ca(),
            files.ca_key()
        ),
        (false, false) => (Authority::create(&files, now)?, true),
        (true, false) => bail!(
            "{:?} is there and its key {:?} is not; put it back from a backup, or remove the folder to begin anew, after which every worker joins again",
            files.ca(),
            files.ca_key()
        ),
        (false, true) => bail!(
            "{:?} is there and its certificate {:?} is not; put it back from a backup, or remove the folder to begin anew, after which every worker joins again",
            files.ca_key(),
            files.ca()
        ),
    };
    let known = if files.are_there() {
        authority::names_of(&files)
    } else {
        Vec::new()
    };
    // A name that was given before stays: somebody may dial by it.
    let mut all = known.clone();
    all.extend(names.into_iter().filter(|name| !known.contains(name)));
    if all != known {
        ensure!(
            all.len() <= NAMES_MAX,
            "{} names and addresses, at most {NAMES_MAX}",
            all.len()
        );
        let (certificate, key) = authority.certify_server(&all, now, place.certificate_life)?;
        authority::write_server(&files, &certificate, &key)?;
    }
    Ok(told(&files, &authority.bundle, &all, made))
}

fn make_folders(place: &Place, files: &Files) -> anyhow::Result<()> {
    let make = |folder: &PathBuf, mode| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(folder)
            .with_context(|| format!("could not create {folder:?}"))
    };
    // As the coordinator itself makes it.
    make(&place.data_dir, 0o711)?;
    make(&files.folder, 0o700)
}

/// The fixed name, this host's, those of loopback, that of the settings, and those that were asked for.
fn names(place: &Place, more: &[String]) -> anyhow::Result<Vec<String>> {
    let mut names = vec![
        COORDINATOR_NAME.to_owned(),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    let mut add = |name: &str| {
        let name = name.trim_matches(['[', ']']).to_ascii_lowercase();
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    };
    if let Ok(host) = nix::unistd::gethostname() {
        let host = host.to_string_lossy();
        // One that no certificate can have is no name to dial by.
        if is_name(&host) {
            add(&host);
        }
    }
    if !place.listen.ip().is_unspecified() {
        add(&place.listen.ip().to_string());
    }
    if let Some((host, _)) = place.address.as_deref().and_then(|at| at.rsplit_once(':')) {
        add(host);
    }
    for name in more {
        let bare = name.trim_matches(['[', ']']);
        ensure!(
            bare.parse::<IpAddr>().is_ok() || is_name(bare),
            "--name {name:?} is neither a host's name nor an IP address; give one, without a port"
        );
        add(bare);
    }
    Ok(names)
}

fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(is_fine)
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

fn told(files: &Files, bundle: &Bundle, names: &[String], made: bool) -> String {
    let mut text = String::new();
    let verb = if made { "made" } else { "already there, kept" };
    let until = bundle.not_after.format("%Y-%m-%d");
    let _ = writeln!(
        text,
        "authority: {verb}, good until {until}: {}",
        files.ca().display()
    );
    let _ = writeln!(
        text,
        "fingerprint (sha256 of its public key): {}",
        bundle.fingerprint()
    );
    let _ = writeln!(text, "this coordinator is known as: {}", names.join(", "));
    let _ = writeln!(
        text,
        "keep {} safe, in a backup: whoever has it can pass for a coordinator or a worker, and nobody joins without it",
        files.ca_key().display()
    );
    text
}

/// What is to be done next, where nobody starts the coordinator for whoever typed this.
#[must_use]
pub fn next_steps(place: &Place) -> String {
    let mut text = String::new();
    if place.listen.ip().is_loopback() {
        let _ = writeln!(
            text,
            "\nnext, to let other hosts in: set listen = \"0.0.0.0:{}\" in coordinator.toml, and (re)start the coordinator",
            place.listen.port()
        );
    } else {
        let _ = writeln!(text, "\nnext: (re)start the coordinator");
    }
    let _ = writeln!(
        text,
        "then, for each worker: marquee-coordinator token create > token   and, on its host: marquee-worker join {} --token-file token",
        dialled(place)
    );
    text
}

/// Where a worker on another host most likely reaches it.
#[must_use]
pub fn dialled(place: &Place) -> String {
    if let Some(address) = &place.address {
        return address.clone();
    }
    let port = place.listen.port();
    match nix::unistd::gethostname() {
        Ok(host) if place.listen.ip().is_unspecified() || place.listen.ip().is_loopback() => {
            format!("{}:{port}", host.to_string_lossy())
        }
        Ok(_) | Err(_) => place.listen.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::env::{Clock as _, SystemClock};

    fn place(folder: &std::path::Path) -> Place {
        Place {
            data_dir: folder.join("data"),
            listen: "127.0.0.1:7700".parse().unwrap(),
            address: Some("head-1.example.org:7700".into()),
            has_other_certificates: false,
            certificate_life: authority::SERVER_LIFE,
        }
    }

    #[test]
    fn it_is_made_once_and_a_second_time_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let now = SystemClock.now();
        let told = init(&place, &[], now).unwrap();
        let files = Files::of(&place.data_dir);
        let pin = Bundle::read(&files).unwrap().fingerprint();
        assert!(
            told.contains(&pin) && told.contains("head-1.example.org"),
            "{told}"
        );
        for key in [
            files.ca_key(),
            files.server_key(),
            files.ca(),
            files.server(),
        ] {
            let mode = fs::metadata(&key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key:?}");
        }
        let read = || {
            [
                files.ca(),
                files.ca_key(),
                files.server(),
                files.server_key(),
            ]
            .map(|file| fs::read_to_string(file).unwrap())
        };
        let before = read();
        let again = init(&place, &[], now).unwrap();
        assert!(again.contains("already there, kept"), "{again}");
        assert_eq!(read(), before);
        // Another name is another certificate of the same authority, and the names before stay.
        let more = init(
            &place,
            &["10.0.0.7".into(), "marquee.example.org".into()],
            now,
        )
        .unwrap();
        assert!(
            more.contains("10.0.0.7") && more.contains("head-1.example.org"),
            "{more}"
        );
        assert_eq!(read()[..2], before[..2]);
        assert_ne!(read()[2], before[2]);
        let names = authority::names_of(&files);
        for name in [
            COORDINATOR_NAME,
            "localhost",
            "::1",
            "10.0.0.7",
            "marquee.example.org",
        ] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
    }

    #[test]
    fn what_is_half_there_is_said_and_not_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let now = SystemClock.now();
        init(&place, &[], now).unwrap();
        let files = Files::of(&place.data_dir);
        let refused = |what: &str| {
            let error = init(&place, &[], now).unwrap_err().to_string();
            assert!(
                error.contains("from a backup") && error.contains(what),
                "{error}"
            );
        };
        let key = fs::read_to_string(files.ca_key()).unwrap();
        fs::remove_file(files.ca_key()).unwrap();
        refused("its key");
        fs::write(files.ca_key(), key).unwrap();
        let open = init(&place, &[], now).unwrap_err().to_string();
        assert!(
            open.contains("mode 0644") && open.contains("chmod 600"),
            "{open}"
        );
        fs::remove_file(files.ca()).unwrap();
        refused("its certificate");
        fs::remove_file(files.ca_key()).unwrap();
        refused("its authority is not");
    }

    #[test]
    fn names_that_are_none_and_other_certificates_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut place = place(folder.path());
        let now = SystemClock.now();
        for wrong in [
            "head:7700",
            "https://head",
            "a b",
            "",
            "*.example.org",
            "head..example",
        ] {
            let error = init(&place, &[wrong.into()], now).unwrap_err().to_string();
            assert!(error.contains("--name"), "{wrong}: {error}");
        }
        place.has_other_certificates = true;
        let error = init(&place, &[], now).unwrap_err().to_string();
        assert!(error.contains("tls.cert"), "{error}");
        assert!(!place.data_dir.exists(), "nothing is left behind");
    }
}
