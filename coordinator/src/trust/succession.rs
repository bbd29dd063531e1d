//! One authority follows another: what that means for the files of one coordinator.
//!
//! Invariant: files follow the database and go forward alone. Each look makes what is missing, whatever was cut short
//! before, and leaves alone the files of a coordinator that the rotation is not about.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use marquee_proto::certificate::bundle::{self, Authority as Believed};
use marquee_store::rotation::{Phase, Rotation};

use super::authority::{self, Authority, Files};

/// Makes the next authority: its pin and its certificate. Its key is in a file before anybody hears of it.
pub(super) fn prepare(files: &Files, now: DateTime<Utc>) -> anyhow::Result<(String, String)> {
    let (key, certificate) = authority::new_authority(now)?;
    // In place of what a try left that came to nothing.
    authority::write_secret(&files.next_key(), &key)?;
    let read =
        bundle::read(&certificate).map_err(|why| anyhow::anyhow!("the certificate {why}"))?;
    let own = read.first().context("the certificate is empty")?;
    Ok((own.pin.clone(), certificate))
}

/// The authorities that are believed by these files.
pub(super) fn believed(files: &Files) -> anyhow::Result<Vec<Believed>> {
    let file = files.ca();
    let pem = fs::read_to_string(&file).with_context(|| format!("could not read {file:?}"))?;
    bundle::read(&pem).map_err(|why| anyhow::anyhow!("{file:?} {why}"))
}

/// Whether the key of the authority with this pin is here, as the one that signs or as the one that is to.
pub(super) fn has_key(files: &Files, pin: &str) -> anyhow::Result<bool> {
    let is_it =
        |file: &Path| anyhow::Ok(authority::pin_of_key(file)?.is_some_and(|own| own == pin));
    Ok(is_it(&files.ca_key())? || is_it(&files.next_key())?)
}

/// What a look came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Files are others than before.
    pub is_new: bool,
    /// The names, as certificates have them, of authorities that these files believed until now.
    pub dropped: Vec<Vec<u8>>,
    /// Why this coordinator cannot come along by itself, with the way out; None: it has.
    pub behind: Option<String>,
}

/// Brings the files in line with a rotation.
pub fn settle(
    files: &Files,
    rotation: &Rotation,
    now: DateTime<Utc>,
    life: TimeDelta,
) -> anyhow::Result<Settled> {
    let before = believed(files)?;
    let Some(wanted) = wanted(&before, rotation)? else {
        let is_open = rotation.phase.is_open();
        return Ok(Settled {
            is_new: false,
            dropped: Vec::new(),
            behind: is_open.then(|| {
                format!(
                    "the authority in {:?} is neither the cluster's nor the one that follows it; copy ca.pem and ca.key from the coordinator that leads, and run \"marquee-coordinator init\"",
                    files.ca()
                )
            }),
        });
    };
    let signs_next = matches!(rotation.phase, Phase::Switched | Phase::Finished);
    let mut is_new = signs_next && take_key(files, &rotation.next)?;
    // Only where it is another: whatever is written is news, for which every worker waits.
    if wanted != before {
        authority::write_secret(&files.ca(), &bundle::text(&wanted))?;
        is_new = true;
    }
    // Once it signs, or never will: the key has one place.
    let next_key = authority::pin_of_key(&files.next_key())?;
    if rotation.phase != Phase::Begun && next_key.is_some_and(|pin| pin == rotation.next) {
        remove(&files.next_key())?;
    }
    let mut behind = None;
    if signs_next && shown(files).is_some_and(|pin| pin != rotation.next) {
        if authority::pin_of_key(&files.ca_key())?.is_some_and(|pin| pin == rotation.next) {
            let signer = Authority::open(files)?;
            let names = authority::names_of(files);
            let (certificate, key) = signer.certify_server(&names, now, life)?;
            authority::write_server(files, &certificate, &key)?;
            is_new = true;
        } else {
            behind = Some(format!(
                "the key of the authority that signs now is not in {:?}, so that this coordinator shows a certificate of the one before; copy ca.key there from the coordinator that leads (same owner, mode 0600)",
                files.folder
            ));
        }
    }
    let is_dropped = |one: &&Believed| !wanted.iter().any(|kept| kept.pin == one.pin);
    let dropped = before.iter().filter(is_dropped);
    Ok(Settled {
        is_new,
        dropped: dropped.map(|one| one.subject().to_vec()).collect(),
        behind,
    })
}

/// What is to be believed, the one that signs first. None: the rotation is not about these files.
fn wanted(before: &[Believed], rotation: &Rotation) -> anyhow::Result<Option<Vec<Believed>>> {
    let first = before.first().map(|one| one.pin.as_str());
    let is_before = first == Some(&rotation.before);
    let is_next = first == Some(&rotation.next);
    let next = || -> anyhow::Result<Believed> {
        let read = bundle::read(&rotation.certificate)
            .map_err(|why| anyhow::anyhow!("what is stored of the next authority {why}"))?;
        let next = read.into_iter().next();
        next.context("the next authority is not stored")
    };
    let without = |pin: &str| -> Vec<Believed> {
        let kept = before.iter().filter(|one| one.pin != pin);
        kept.cloned().collect()
    };
    let mut all;
    match rotation.phase {
        // One that has gone further does not go back: the database may be from a backup.
        Phase::Begun if is_before => {
            all = without(&rotation.next);
            // At the end: the first is the one that signs.
            all.push(next()?);
        }
        Phase::Abandoned if is_before => all = without(&rotation.next),
        Phase::Switched if is_before || is_next => {
            all = without(&rotation.next);
            all.insert(0, next()?);
        }
        Phase::Finished if is_before || is_next => {
            all = without(&rotation.next);
            all.retain(|one| one.pin != rotation.before);
            all.insert(0, next()?);
        }
        Phase::Begun | Phase::Abandoned | Phase::Switched | Phase::Finished => return Ok(None),
    }
    // Written as it stands where only the lines around certificates differ.
    Ok(Some(all))
}

/// Puts the next authority's key in the place of the one that signs. Whether it did.
fn take_key(files: &Files, next: &str) -> anyhow::Result<bool> {
    let has = |file: &Path| anyhow::Ok(authority::pin_of_key(file)?.is_some_and(|pin| pin == next));
    if has(&files.ca_key())? || !has(&files.next_key())? {
        return Ok(false);
    }
    // Copied, and the copy removed later: killed in between, the next look finds one of the two.
    let key = authority::read_secret(&files.next_key())?;
    authority::write_secret(&files.ca_key(), &key)?;
    Ok(true)
}

/// The pin of the authority behind the certificate that this coordinator shows.
pub(super) fn shown(files: &Files) -> Option<String> {
    let pem = fs::read_to_string(files.server()).ok()?;
    let chain = bundle::read(&pem).ok()?;
    // Its own certificate comes first, the authority's behind it.
    chain.get(1).map(|authority| authority.pin.clone())
}

fn remove(file: &Path) -> anyhow::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {file:?}"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
#[path = "succession_tests.rs"]
mod tests;
