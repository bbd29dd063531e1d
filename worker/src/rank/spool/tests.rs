//! The spool, restarted, cut and damaged.

use super::*;

const KEY: (i64, u32, u32) = (7, 1, 0);
const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

fn open(dir: &tempfile::TempDir) -> Spool {
    Spool::open(&dir.path().join("spool"), RankKey::new(KEY.0, KEY.1, KEY.2)).unwrap()
}

fn append(spool: &mut Spool, count: usize, stderr_offset: u64) {
    let mut cursor = Cursor::default();
    cursor.stderr.offset = stderr_offset;
    let bodies = (0..count).map(|n| own_line(&n.to_string())).collect();
    spool.append(DateTime::UNIX_EPOCH, bodies, cursor).unwrap();
}

fn numbers(reports: &[v1::Report]) -> Vec<u64> {
    reports.iter().map(|report| report.sequence).collect()
}

#[test]
fn numbers_state_and_cursor_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    append(&mut spool, 3, 30);
    let started = Body::Started(v1::RankStarted { pid: 4 });
    spool
        .append(DateTime::UNIX_EPOCH, vec![started], spool.cursor().clone())
        .unwrap();
    append(&mut spool, 0, 40);
    let mut spool = open(&dir);
    assert_eq!(
        (spool.last_sequence(), spool.state()),
        (4, RankState::Running)
    );
    assert_eq!(spool.cursor().stderr.offset, 40);
    append(&mut spool, 2, 50);
    assert_eq!(
        numbers(&spool.read(1, 100, 1 << 20, NOW)),
        [1, 2, 3, 4, 5, 6]
    );
    assert_eq!(numbers(&spool.read(3, 2, 1 << 20, NOW)), [3, 4]);
    assert_eq!(numbers(&spool.read(3, 100, 1, NOW)), [3], "one always goes");
}

#[test]
fn a_batch_that_was_cut_short_is_dropped_whole_wherever_it_was_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    append(&mut spool, 2, 20);
    let whole = spool.end;
    append(&mut spool, 2, 40);
    let full = spool.end;
    drop(spool);
    let bytes = fs::read(dir.path().join("spool")).unwrap();
    for cut in whole..full {
        fs::write(
            dir.path().join("spool"),
            &bytes[..usize::try_from(cut).unwrap()],
        )
        .unwrap();
        let spool = open(&dir);
        assert_eq!(
            (spool.last_sequence(), spool.cursor().stderr.offset),
            (2, 20),
            "cut at {cut}"
        );
    }
    let mut garbled = bytes.clone();
    *garbled.last_mut().unwrap() ^= 1;
    fs::write(dir.path().join("spool"), &garbled).unwrap();
    assert_eq!(open(&dir).last_sequence(), 2);
}

#[test]
fn acknowledged_reports_leave_the_disk_but_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let line = "z".repeat(1 << 20);
    for n in 1..=12 {
        let mut cursor = Cursor::default();
        cursor.stderr.offset = n;
        spool
            .append(DateTime::UNIX_EPOCH, vec![own_line(&line)], cursor)
            .unwrap();
    }
    spool.ack(12);
    assert!(fs::metadata(dir.path().join("spool")).unwrap().len() < 2 << 20);
    let mut spool = open(&dir);
    assert_eq!(
        (spool.last_sequence(), spool.acked()),
        (12, 11),
        "the newest batch stays"
    );
    assert_eq!(spool.cursor().stderr.offset, 12);
    append(&mut spool, 1, 13);
    assert_eq!(numbers(&spool.read(13, 9, 9999, NOW)), [13]);
}

#[test]
fn an_acknowledgement_of_what_was_never_made_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    append(&mut spool, 2, 0);
    spool.ack(9);
    assert_eq!(spool.acked(), 2);
    spool.ack(1);
    assert_eq!(spool.acked(), 2);
}

#[test]
fn damage_in_the_middle_costs_what_it_hit_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut spool = open(&dir);
    let mut edges = vec![0];
    for n in 1..=6 {
        append(&mut spool, 2, n);
        edges.push(usize::try_from(spool.end).unwrap());
    }
    drop(spool);
    let bytes = fs::read(&path).unwrap();
    // Every byte of the third and fourth batch in turn, then both: one of them may hold the length.
    let mut attacks: Vec<Vec<usize>> = (edges[2]..edges[4]).map(|at| vec![at]).collect();
    attacks.push((edges[2]..edges[4]).collect());
    for attack in attacks {
        let mut garbled = bytes.clone();
        attack.iter().for_each(|at| garbled[*at] ^= 0x5a);
        fs::write(&path, &garbled).unwrap();
        let mut spool = open(&dir);
        assert_eq!(
            (spool.last_sequence(), spool.cursor().stderr.offset),
            (12, 6)
        );
        let read = spool.read(1, 99, 1 << 20, NOW);
        assert_eq!(numbers(&read), (1..=12).collect::<Vec<_>>(), "{attack:?}");
        let told = read
            .iter()
            .filter(|report| format!("{report:?}").contains("are lost here"));
        assert_eq!(told.count(), 1, "{attack:?}");
    }
}

#[test]
fn damage_while_it_is_open_costs_no_session() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut spool = open(&dir);
    append(&mut spool, 3, 1);
    let edge = usize::try_from(spool.end).unwrap();
    let failed = Body::Failed(v1::RankFailed::default());
    spool.append(NOW, vec![failed], Cursor::default()).unwrap();
    // A job may do this to its own rank.
    let mut bytes = fs::read(&path).unwrap();
    bytes[edge + 20] ^= 1;
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let read = spool.read(1, 99, 1 << 20, NOW);
    assert_eq!(numbers(&read), [1, 2, 3, 4]);
    let last = read.last().and_then(|report| report.body.clone());
    assert!(matches!(last, Some(Body::Failed(failed)) if failed.failure.is_some()));
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    assert_eq!(numbers(&spool.read(2, 99, 1 << 20, NOW)), [2, 3, 4]);
}

#[test]
fn batches_of_version_0_1_are_read_and_gone_on_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut maker = open(&dir);
    append(&mut maker, 2, 20);
    let reports = maker.read(1, 9, 1 << 20, NOW);
    let old = frame::encode_old(&maker.head, v1::Reports { reports });
    fs::write(&path, &old).unwrap();
    let mut spool = open(&dir);
    assert_eq!(
        (spool.last_sequence(), spool.cursor().stderr.offset),
        (2, 20)
    );
    append(&mut spool, 1, 30);
    let mut spool = open(&dir);
    assert_eq!(numbers(&spool.read(1, 9, 1 << 20, NOW)), [1, 2, 3]);
    // Nothing tells where the damaged batch ends; the beginning of the next one does.
    let mut bytes = fs::read(&path).unwrap();
    bytes[9] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut spool = open(&dir);
    assert_eq!(numbers(&spool.read(1, 9, 1 << 20, NOW)), [1, 2, 3]);
    assert_eq!(spool.cursor().stderr.offset, 30);
}

#[test]
fn behind_a_torn_end_numbers_go_on_where_the_coordinator_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut spool = open(&dir);
    append(&mut spool, 2, 1);
    append(&mut spool, 2, 2);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut spool = open(&dir);
    assert_eq!(spool.last_sequence(), 2);
    // It had all four.
    spool.ack(4);
    append(&mut spool, 1, 2);
    assert_eq!(numbers(&spool.read(5, 9, 1 << 20, NOW)), [5]);
}

#[test]
fn a_spool_in_memory_works_like_any() {
    let mut spool = Spool::in_memory(RankKey::new(7, 1, 0)).unwrap();
    append(&mut spool, 2, 1);
    assert_eq!(numbers(&spool.read(1, 9, 1 << 20, NOW)), [1, 2]);
    spool.ack(2);
    assert_eq!(spool.acked(), 2);
}
