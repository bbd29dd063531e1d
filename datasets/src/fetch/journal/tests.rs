use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    word: String,
}

fn note(word: &str) -> Note {
    Note {
        word: word.to_owned(),
    }
}

fn open(dir: &Path) -> Journal {
    let judge = |note: &Note| match note.word.as_str() {
        "again" => Standing::Nothing,
        "soon" => Standing::Known,
        word => Standing::Settled(word.to_owned()),
    };
    Journal::open(dir, 10, judge).unwrap()
}

#[test]
fn what_was_written_is_there_again_and_the_newest_counts() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    journal.append(3, &note("again"), "again", b"").unwrap();
    journal.append(7, &note("b"), "b", b"body of 7").unwrap();
    drop(journal);
    let mut journal = open(dir.path());
    assert_eq!(
        (journal.settled(), journal.has(3), journal.has(7)),
        (1, false, true)
    );
    journal.append(3, &note("c"), "c", b"new").unwrap();
    for _ in 0..2 {
        assert_eq!(journal.read(3).unwrap(), Some((note("c"), b"new".to_vec())));
        assert_eq!(
            journal.read(7).unwrap(),
            Some((note("b"), b"body of 7".to_vec()))
        );
        assert_eq!(journal.read::<Note>(4).unwrap(), None);
        journal = open(dir.path());
    }
    assert_eq!(journal.segments().unwrap().len(), 2);
}

#[test]
fn a_journal_that_was_cut_anywhere_keeps_its_whole_frames() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    for at in 0..4 {
        journal.append(at, &note("x"), "x", &[7; 50]).unwrap();
    }
    drop(journal);
    let file = path_of(dir.path(), 0);
    let whole = fs::read(&file).unwrap();
    for length in 0..whole.len() {
        fs::write(&file, &whole[..length]).unwrap();
        let journal = open(dir.path());
        assert_eq!(
            journal.settled(),
            (length * 4 / whole.len()) as u64,
            "{length}"
        );
    }
    let mut altered = whole.clone();
    *altered.last_mut().unwrap() ^= 1;
    fs::write(&file, altered).unwrap();
    assert_eq!(open(dir.path()).settled(), 3);
}

fn counts(journal: &Journal) -> Vec<(&str, u64)> {
    let counts = journal.counts().iter();
    counts.map(|(class, count)| (&**class, *count)).collect()
}

#[test]
fn what_is_known_stays_until_the_entry_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    journal.note(2, &note("soon")).unwrap();
    journal.note(5, &note("soon")).unwrap();
    journal.append(5, &note("x"), "x", b"body").unwrap();
    // What failed is asked for again, and what was known of it is known still.
    journal.note(6, &note("soon")).unwrap();
    journal.append(6, &note("again"), "again", b"").unwrap();
    drop(journal);
    let mut journal = open(dir.path());
    for at in [2, 6] {
        assert_eq!(journal.known(at).unwrap(), Some(note("soon")), "{at}");
        assert!(!journal.has(at));
    }
    assert_eq!(journal.known::<Note>(5).unwrap(), None);
    assert_eq!((journal.settled(), counts(&journal)), (1, vec![("x", 1)]));
}

#[test]
fn counts_are_those_of_all_attempts_and_each_entry_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    for at in 0..4 {
        journal.append(at, &note("gone"), "gone", b"").unwrap();
    }
    journal.append(4, &note("x"), "x", b"12345").unwrap();
    drop(journal);
    let mut journal = open(dir.path());
    assert_eq!(counts(&journal), [("gone", 4), ("x", 1)]);
    // An entry that is settled anew.
    journal.append(0, &note("x"), "x", b"123").unwrap();
    journal.append(4, &note("gone"), "gone", b"").unwrap();
    assert_eq!(counts(&journal), [("gone", 4), ("x", 1)]);
    assert_eq!((journal.settled(), journal.body_bytes()), (5, 3));
    drop(journal);
    let journal = open(dir.path());
    assert_eq!(counts(&journal), [("gone", 4), ("x", 1)]);
    assert_eq!((journal.settled(), journal.body_bytes()), (5, 3));
}

#[test]
fn classes_without_end_are_counted_as_others() {
    let mut classes = Classes::default();
    for at in 0..CLASSES_MAX + 50 {
        let number = classes.count(&format!("code_{at}"));
        assert_eq!(usize::from(number), at.min(CLASSES_MAX));
    }
    assert_eq!(classes.counts[OTHERS], 50);
    assert_eq!(classes.counts.len(), CLASSES_MAX + 1);
}

#[test]
fn a_frame_that_could_not_be_read_again_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    let long = note(&"x".repeat(HEADER_MAX_BYTES as usize));
    assert!(journal.append(0, &long, "x", b"").is_err());
    journal.append(1, &note("y"), "y", b"").unwrap();
    drop(journal);
    assert_eq!(open(dir.path()).settled(), 1);
}
