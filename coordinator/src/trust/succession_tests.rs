//! Files of coordinators in each phase, also of those that were away, and of those that it is not about.

use marquee_store::rotation::Phase::{Abandoned, Begun, Finished, Switched};

use super::*;
use crate::env::{Clock as _, SystemClock};
use crate::trust::authority::SERVER_LIFE;

struct Coordinator {
    _folder: tempfile::TempDir,
    files: Files,
}

impl Coordinator {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::of(folder.path());
        fs::create_dir(&files.folder).unwrap();
        let authority = Authority::create(&files, SystemClock.now()).unwrap();
        let this = Self {
            _folder: folder,
            files,
        };
        this.certify(&authority);
        this
    }

    /// Another one of the same cluster: the authority is copied, as the documentation says.
    fn beside(other: &Self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::of(folder.path());
        fs::create_dir(&files.folder).unwrap();
        fs::copy(other.files.ca(), files.ca()).unwrap();
        fs::copy(other.files.ca_key(), files.ca_key()).unwrap();
        let authority = Authority::open(&files).unwrap();
        let this = Self {
            _folder: folder,
            files,
        };
        this.certify(&authority);
        this
    }

    fn certify(&self, authority: &Authority) {
        let names = [authority::COORDINATOR_NAME.to_owned()];
        let (pem, key) = authority
            .certify_server(&names, SystemClock.now(), SERVER_LIFE)
            .unwrap();
        authority::write_server(&self.files, &pem, &key).unwrap();
    }

    fn settle(&self, rotation: &Rotation, phase: Phase) -> Settled {
        let rotation = Rotation {
            phase,
            ..rotation.clone()
        };
        settle(&self.files, &rotation, SystemClock.now(), SERVER_LIFE).unwrap()
    }

    fn pins(&self) -> Vec<String> {
        bundle::pins(&believed(&self.files).unwrap())
    }

    /// The pin of the key that signs.
    fn signs(&self) -> String {
        authority::pin_of_key(&self.files.ca_key())
            .unwrap()
            .unwrap()
    }
}

fn begin(leader: &Coordinator) -> Rotation {
    let now = SystemClock.now();
    let before = leader.pins().remove(0);
    let (next, certificate) = prepare(&leader.files, now).unwrap();
    Rotation {
        before,
        next,
        certificate,
        phase: Begun,
        begun_at: now,
        begun_by: "ada".into(),
        switched_at: None,
        ended_at: None,
    }
}

#[test]
fn each_phase_is_believed_and_signed_as_it_says_and_a_second_look_changes_nothing() {
    let leader = Coordinator::new();
    let rotation = begin(&leader);
    let Rotation { before, next, .. } = &rotation;
    for (phase, pins, signs) in [
        (Begun, vec![before, next], before),
        (Switched, vec![next, before], next),
        (Finished, vec![next], next),
    ] {
        let settled = leader.settle(&rotation, phase);
        assert!(settled.is_new, "{phase:?}");
        assert_eq!(settled.behind, None);
        assert_eq!(leader.pins().iter().collect::<Vec<_>>(), pins, "{phase:?}");
        assert_eq!(&leader.signs(), signs);
        assert_eq!(shown(&leader.files).as_ref(), Some(signs));
        // The authority works, and what it lets in is named where it is let out.
        Authority::open(&leader.files).unwrap();
        assert_eq!(settled.dropped.len(), usize::from(phase == Finished));
        let again = leader.settle(&rotation, phase);
        assert!(!again.is_new && again.dropped.is_empty(), "{phase:?}");
        assert_eq!(leader.files.next_key().exists(), phase == Begun);
    }
    // A database that was restored from a backup: files do not go back.
    assert!(!leader.settle(&rotation, Begun).is_new);
    assert_eq!(leader.pins(), std::slice::from_ref(next));
}

#[test]
fn one_that_is_killed_half_way_is_put_right_by_the_next_look() {
    let leader = Coordinator::new();
    let rotation = begin(&leader);
    leader.settle(&rotation, Begun);
    // The key was taken, and nothing else.
    assert!(take_key(&leader.files, &rotation.next).unwrap());
    Authority::open(&leader.files).unwrap_err();
    leader.settle(&rotation, Switched);
    Authority::open(&leader.files).unwrap();
    assert_eq!(shown(&leader.files).as_ref(), Some(&rotation.next));
}

#[test]
fn what_is_abandoned_leaves_nothing_and_another_one_can_begin() {
    let leader = Coordinator::new();
    let before = leader.pins();
    let rotation = begin(&leader);
    leader.settle(&rotation, Begun);
    assert!(leader.settle(&rotation, Abandoned).is_new);
    assert_eq!(leader.pins(), before);
    assert!(!leader.files.next_key().exists());
    let second = begin(&leader);
    assert!(leader.settle(&second, Begun).is_new);
    assert!(!leader.settle(&rotation, Abandoned).is_new);
}

#[test]
fn one_that_stands_by_believes_at_once_and_shows_what_is_new_when_it_has_the_key() {
    let leader = Coordinator::new();
    let beside = Coordinator::beside(&leader);
    let rotation = begin(&leader);
    assert!(beside.settle(&rotation, Begun).is_new);
    assert_eq!(beside.pins().len(), 2);
    leader.settle(&rotation, Switched);
    let settled = beside.settle(&rotation, Switched);
    assert!(settled.behind.unwrap().contains("copy ca.key"));
    assert_eq!(shown(&beside.files).as_ref(), Some(&rotation.before));
    fs::copy(leader.files.ca_key(), beside.files.ca_key()).unwrap();
    assert_eq!(beside.settle(&rotation, Switched).behind, None);
    assert_eq!(shown(&beside.files).as_ref(), Some(&rotation.next));
    // Off until all was over.
    let late = Coordinator::beside(&Coordinator::new());
    assert!(!late.settle(&rotation, Finished).is_new);
    assert_eq!(late.settle(&rotation, Finished).behind, None);
    assert!(
        late.settle(&rotation, Begun)
            .behind
            .unwrap()
            .contains("neither")
    );
}

/// Everything in a folder, for a look at what was changed.
fn contents(files: &Files) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let entries = fs::read_dir(&files.folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

#[test]
fn from_each_phase_a_coordinator_that_was_away_comes_along_to_each_later_one() {
    for (missed, phase) in [
        (Begun, Switched),
        (Begun, Finished),
        (Switched, Finished),
        (Begun, Abandoned),
    ] {
        let leader = Coordinator::new();
        let rotation = begin(&leader);
        if missed == Switched {
            leader.settle(&rotation, Begun);
        }
        let settled = leader.settle(&rotation, phase);
        assert_eq!(settled.behind, None, "{missed:?} {phase:?}");
        Authority::open(&leader.files).unwrap();
        let signs = if phase == Abandoned {
            &rotation.before
        } else {
            &rotation.next
        };
        assert_eq!(&leader.pins()[0], signs, "{missed:?} {phase:?}");
        assert_eq!(shown(&leader.files).as_ref(), Some(signs));
        assert!(!leader.files.next_key().exists(), "{missed:?} {phase:?}");
        let settled = contents(&leader.files);
        assert!(!leader.settle(&rotation, phase).is_new);
        assert_eq!(contents(&leader.files), settled, "{missed:?} {phase:?}");
    }
}

#[test]
fn files_that_went_further_are_left_as_they_are_by_each_earlier_phase() {
    let leader = Coordinator::new();
    let rotation = begin(&leader);
    for phase in [Begun, Switched] {
        leader.settle(&rotation, phase);
    }
    let switched = contents(&leader.files);
    for earlier in [Begun, Abandoned] {
        let settled = leader.settle(&rotation, earlier);
        assert!(!settled.is_new && settled.dropped.is_empty(), "{earlier:?}");
        assert_eq!(contents(&leader.files), switched, "{earlier:?}");
    }
    leader.settle(&rotation, Finished);
    let pins = leader.pins();
    for earlier in [Begun, Abandoned, Switched] {
        let settled = leader.settle(&rotation, earlier);
        assert!(settled.dropped.is_empty(), "{earlier:?}");
        assert_eq!(leader.pins(), pins, "{earlier:?}");
    }
}

#[test]
fn whatever_was_cut_short_between_two_files_the_next_look_finishes() {
    // What a kill may leave: each file of the step alone, in the state of before.
    for kept in ["ca.pem", "ca.key", "server.pem"] {
        for phase in [Switched, Finished] {
            let leader = Coordinator::new();
            let rotation = begin(&leader);
            leader.settle(&rotation, Begun);
            let file = leader.files.folder.join(kept);
            let before = fs::read(&file).unwrap();
            let next_key = fs::read(leader.files.next_key()).unwrap();
            leader.settle(&rotation, phase);
            fs::write(&file, before).unwrap();
            // It is removed last.
            fs::write(leader.files.next_key(), next_key).unwrap();
            fs::set_permissions(
                leader.files.next_key(),
                std::os::unix::fs::PermissionsExt::from_mode(0o600),
            )
            .unwrap();
            let settled = leader.settle(&rotation, phase);
            assert!(
                settled.is_new && settled.behind.is_none(),
                "{kept} {phase:?}"
            );
            Authority::open(&leader.files).unwrap();
            assert_eq!(leader.signs(), rotation.next, "{kept} {phase:?}");
            assert_eq!(shown(&leader.files).as_ref(), Some(&rotation.next));
            assert!(!leader.files.next_key().exists(), "{kept} {phase:?}");
            authority::check_modes(&leader.files).unwrap();
        }
    }
}

#[test]
fn files_that_cannot_be_read_are_named_and_nothing_is_written() {
    let leader = Coordinator::new();
    let rotation = begin(&leader);
    leader.settle(&rotation, Begun);
    let tried = |phase| {
        let rotation = Rotation {
            phase,
            ..rotation.clone()
        };
        settle(&leader.files, &rotation, SystemClock.now(), SERVER_LIFE)
    };
    let whole = fs::read(leader.files.ca()).unwrap();
    for (broken, why) in [(&b""[..], "ca.pem"), (b"no certificate", "ca.pem")] {
        fs::write(leader.files.ca(), broken).unwrap();
        let before = contents(&leader.files);
        for phase in [Begun, Switched, Finished, Abandoned] {
            let error = format!("{:#}", tried(phase).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(contents(&leader.files), before);
    }
    fs::remove_file(leader.files.ca()).unwrap();
    let error = format!("{:#}", tried(Switched).unwrap_err());
    assert!(error.contains("could not read"), "{error}");
    fs::write(leader.files.ca(), whole).unwrap();
    // What is stored of the next one is no certificate.
    let broken = Rotation {
        certificate: "nonsense".into(),
        phase: Switched,
        ..rotation.clone()
    };
    let before = contents(&leader.files);
    let settled = settle(&leader.files, &broken, SystemClock.now(), SERVER_LIFE);
    let error = format!("{:#}", settled.unwrap_err());
    assert!(error.contains("the next authority"), "{error}");
    assert_eq!(contents(&leader.files), before);
    assert_eq!(tried(Switched).unwrap().behind, None);
}

#[test]
fn an_authority_that_is_believed_beside_stays_believed_to_the_end() {
    let leader = Coordinator::new();
    let other = Coordinator::new();
    // As where two clusters share their workers.
    let mut both = believed(&leader.files).unwrap();
    both.extend(believed(&other.files).unwrap());
    authority::write_secret(&leader.files.ca(), &bundle::text(&both)).unwrap();
    let beside = other.pins().remove(0);
    let rotation = begin(&leader);
    let Rotation { before, next, .. } = &rotation;
    for (phase, pins) in [
        (Begun, vec![before, &beside, next]),
        (Switched, vec![next, before, &beside]),
        (Finished, vec![next, &beside]),
    ] {
        let settled = leader.settle(&rotation, phase);
        assert_eq!(leader.pins().iter().collect::<Vec<_>>(), pins, "{phase:?}");
        assert_eq!(settled.dropped.len(), usize::from(phase == Finished));
    }
    // The one whose rotation it is not does nothing, and says what is wrong while it is open.
    let before = contents(&other.files);
    for (phase, is_open) in [(Begun, true), (Switched, true), (Finished, false)] {
        let settled = other.settle(&rotation, phase);
        assert_eq!(settled.behind.is_some(), is_open, "{phase:?}");
        assert!(!settled.is_new);
    }
    assert_eq!(contents(&other.files), before);
}

#[test]
fn a_key_is_known_as_the_one_that_signs_and_as_the_one_that_is_to() {
    let leader = Coordinator::new();
    let rotation = begin(&leader);
    for pin in [&rotation.before, &rotation.next] {
        assert!(has_key(&leader.files, pin).unwrap());
    }
    assert!(!has_key(&leader.files, "0000").unwrap());
    // A try after one that came to nothing has a key of its own, in the place of that.
    let again = begin(&leader);
    assert_ne!(again.next, rotation.next);
    assert!(!has_key(&leader.files, &rotation.next).unwrap());
    fs::remove_file(leader.files.next_key()).unwrap();
    assert!(!has_key(&leader.files, &again.next).unwrap());
    // One that is no key is said, and is not taken for another.
    authority::write_secret(&leader.files.next_key(), "no key").unwrap();
    let error = format!("{:#}", has_key(&leader.files, &again.next).unwrap_err());
    assert!(error.contains("next.key"), "{error}");
}
