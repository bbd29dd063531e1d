use super::*;

const LEASE: Duration = Duration::from_secs(10);

fn daemon(number: u128) -> Daemon {
    Daemon {
        instance: Uuid::from_u128(number),
        who: format!("daemon {number}"),
    }
}

#[test]
fn an_old_session_cannot_end_a_new_one() {
    let sessions = Sessions::default();
    let worker = WorkerId(Uuid::from_u128(1));
    let admit = || sessions.admit(worker, daemon(1), LEASE).unwrap();
    let old = admit();
    sessions.begin(&old);
    let new = admit();
    sessions.begin(&new);
    assert!(old.replaced.is_cancelled());
    sessions.leave(&old);
    assert!(sessions.is_connected(worker));
    sessions.leave(&new);
    assert!(!sessions.is_connected(worker));
    assert!(
        sessions.last_seen(worker).is_some(),
        "the lease runs on from its last word"
    );
}

#[test]
fn a_daemon_that_is_being_replaced_is_expected_and_not_lost() {
    let sessions = Sessions::default();
    let worker = WorkerId(Uuid::from_u128(1));
    let seat = sessions.admit(worker, daemon(1), LEASE).unwrap();
    sessions.begin(&seat);
    let before = Instant::now();
    sessions.set_away(&seat, Duration::from_secs(1_000_000));
    sessions.leave(&seat);
    assert!(sessions.went_to_be_replaced(worker));
    let until = sessions.last_seen(worker).unwrap();
    assert!(until > before + AWAY_MAX - LEASE && until <= Instant::now() + AWAY_MAX);
    // The next daemon is heard like any other.
    let next = sessions.admit(worker, daemon(2), LEASE).unwrap();
    sessions.begin(&next);
    assert!(!sessions.went_to_be_replaced(worker));
    assert!(sessions.last_seen(worker).unwrap() <= Instant::now());
}

#[test]
fn an_id_is_its_owners_for_as_long_as_that_lives() {
    let sessions = Sessions::default();
    let worker = WorkerId(Uuid::from_u128(1));
    let admit = |number| sessions.admit(worker, daemon(number), LEASE);
    let owner = admit(1).unwrap();
    sessions.begin(&owner);
    assert!(sessions.rival(worker).is_none());
    for _ in 0..3 {
        let error = admit(2).unwrap_err();
        assert_eq!(error.owner, "daemon 1");
    }
    assert!(!owner.replaced.is_cancelled(), "the owner goes on");
    // Both are told, the owner once, and whoever lists the workers.
    assert!(sessions.rival_to_tell(&owner).unwrap().contains("daemon 2"));
    assert_eq!(sessions.rival_to_tell(&owner), None);
    assert!(sessions.rival(worker).unwrap().contains("daemon 2"));
    // A connection of the owner's own that hangs is replaced at once.
    let again = admit(1).unwrap();
    sessions.begin(&again);
    assert!(owner.replaced.is_cancelled());
    // An owner that fell silent for its lease is no owner any more, nor is one that left.
    let heir = sessions.admit(worker, daemon(2), Duration::ZERO).unwrap();
    sessions.begin(&heir);
    assert!(again.replaced.is_cancelled());
    assert!(admit(1).is_err());
    sessions.leave(&heir);
    assert!(admit(1).is_ok());
}

fn connected(sessions: &Sessions, number: u128) -> (WorkerId, Seat) {
    let worker = WorkerId(Uuid::from_u128(number));
    let seat = sessions.admit(worker, daemon(number), LEASE).unwrap();
    sessions.begin(&seat);
    (worker, seat)
}

#[test]
fn of_a_worker_that_never_came_nothing_is_known_and_nothing_is_asked() {
    let sessions = Sessions::default();
    let worker = WorkerId(Uuid::from_u128(9));
    let key = super::super::hello::key(1, 1, 0);
    assert!(!sessions.is_connected(worker) && !sessions.takes_ranks(worker));
    assert!(!sessions.is_leaving(worker) && !sessions.went_to_be_replaced(worker));
    assert!(sessions.last_seen(worker).is_none() && sessions.rival(worker).is_none());
    assert!(sessions.gpus(worker).is_empty() && sessions.gpu_past(worker).is_empty());
    assert!(sessions.kept_of(JobId(1)).is_none() && sessions.rescue(worker, key).is_none());
    assert!(!sessions.kill(worker, key) && !sessions.cut_off(worker, LEASE));
    assert!(sessions.is_cut_off_for(worker).is_none());
    // Words for one that is gone harm nobody.
    sessions.nudge(&[worker]);
    sessions.placed(worker, Vec::new());
    sessions.expel(worker, Status::aborted("out"));
    assert!(!sessions.is_connected(worker));
}

#[test]
fn a_daemon_that_is_being_stopped_takes_nothing_new_and_says_so_once() {
    let sessions = Sessions::default();
    let (worker, seat) = connected(&sessions, 1);
    assert!(sessions.takes_ranks(worker));
    assert!(sessions.set_leaving(&seat, true), "that is news");
    assert!(!sessions.set_leaving(&seat, true), "that is none");
    assert!(!sessions.takes_ranks(worker) && sessions.is_leaving(worker));
    sessions.leave(&seat);
    assert!(!sessions.is_leaving(worker), "it has left");
    // A word of an old session about what the worker does now is too late.
    let next = sessions.admit(worker, daemon(1), LEASE).unwrap();
    sessions.begin(&next);
    assert!(!sessions.set_leaving(&seat, false));
    assert!(sessions.set_leaving(&next, false));
    assert!(sessions.takes_ranks(worker));
}

#[test]
fn an_expelled_session_hears_why_and_a_newer_one_does_not() {
    let sessions = Sessions::default();
    let (worker, seat) = connected(&sessions, 1);
    assert!(sessions.expelled(&seat).is_none());
    sessions.expel(worker, Status::permission_denied("worker was revoked"));
    assert!(!sessions.takes_ranks(worker) && seat.replaced.is_cancelled());
    assert_eq!(
        sessions.expelled(&seat).unwrap().message(),
        "worker was revoked"
    );
    let next = sessions.admit(worker, daemon(1), LEASE).unwrap();
    assert!(sessions.expelled(&next).is_none() && sessions.expelled(&seat).is_none());
    assert!(
        !sessions.is_connected(worker),
        "it has not had its turn yet"
    );
}

#[test]
fn a_cut_worker_is_kept_off_for_its_time_and_not_for_ever() {
    let sessions = Sessions::default();
    let (worker, seat) = connected(&sessions, 1);
    assert!(sessions.cut_off(worker, Duration::from_secs(60)));
    assert!(seat.replaced.is_cancelled());
    let left = sessions.is_cut_off_for(worker).unwrap();
    assert!(left <= Duration::from_secs(60));
    let (other, _) = connected(&sessions, 2);
    assert!(sessions.is_cut_off_for(other).is_none());
    assert!(sessions.cut_off(other, Duration::ZERO));
    assert!(sessions.is_cut_off_for(other).is_none());
}

#[test]
fn faults_that_come_and_go_are_news_and_other_readings_are_not() {
    let sessions = Sessions::default();
    let (worker, seat) = connected(&sessions, 1);
    let reading = |index, fault: &str| GpuReading {
        index,
        fault: fault.into(),
        ..GpuReading::default()
    };
    assert!(sessions.set_gpus(&seat, vec![reading(0, "")]), "a GPU came");
    let busy = GpuReading {
        utilisation_percent: Some(99),
        ..reading(0, "")
    };
    assert!(!sessions.set_gpus(&seat, vec![busy]));
    assert!(sessions.set_gpus(&seat, vec![reading(0, "Xid 79")]));
    // The same GPU is ill still, in other words.
    assert!(!sessions.set_gpus(&seat, vec![reading(0, "does not answer")]));
    assert!(sessions.set_gpus(&seat, vec![reading(0, "")]));
    assert!(sessions.set_gpus(&seat, Vec::new()), "it is gone");
    assert!(sessions.gpus(worker).is_empty());
}

#[test]
fn of_all_workers_that_keep_outputs_of_a_job_the_newest_one_counts_while_it_is_here() {
    let sessions = Sessions::default();
    let kept = |attempt| KeptOutput {
        key: super::super::hello::key(5, attempt, 0),
        path: format!("/kept/{attempt}"),
        until: None,
    };
    let (first, first_seat) = connected(&sessions, 1);
    let (second, second_seat) = connected(&sessions, 2);
    sessions.set_kept(&first_seat, vec![kept(1), kept(3)]);
    sessions.set_kept(&second_seat, vec![kept(2)]);
    assert_eq!(sessions.kept_of(JobId(5)), Some((first, kept(3))));
    assert_eq!(sessions.kept_of(JobId(6)), None);
    sessions.leave(&first_seat);
    assert_eq!(sessions.kept_of(JobId(5)), Some((second, kept(2))));
    assert!(sessions.rescue(first, kept(3).key).is_none());
    assert!(sessions.rescue(second, kept(2).key).is_some());
}

#[tokio::test]
async fn placements_and_kills_that_come_before_a_session_listens_reach_it() {
    let sessions = Sessions::default();
    let (worker, seat) = connected(&sessions, 1);
    let placed = |rank| PlacedRank {
        key: super::super::hello::key(1, 1, rank),
        before: Instant::now(),
        assignment: None,
    };
    sessions.placed(worker, vec![placed(0)]);
    sessions.placed(worker, vec![placed(1)]);
    assert!(sessions.kill(worker, placed(0).key));
    assert_eq!(seat.placed.next().await.len(), 2);
    assert_eq!(seat.kills.next().await, [placed(0).key]);
}

#[test]
fn a_clock_that_goes_wrong_is_news_each_time_and_one_that_stays_wrong_is_none() {
    let sessions = Sessions::default();
    let (worker, seat) = connected(&sessions, 1);
    assert_eq!(sessions.clock_ahead(worker), None);
    let far = TimeDelta::from_std(CLOCKS_APART).unwrap();
    let milli = TimeDelta::milliseconds(1);
    for (ahead, is_news) in [
        (TimeDelta::zero(), false),
        // The limit itself is let pass.
        (far, false),
        (far + milli, true),
        (far + milli, false),
        (-far, false),
        (-far - milli, true),
        // Wrong the other way: it was never right in between.
        (far * 100, false),
        (TimeDelta::zero(), false),
        (far * 100, true),
        // Times that no clock has.
        (TimeDelta::MAX, false),
        (TimeDelta::MIN, false),
        (TimeDelta::zero(), false),
        (TimeDelta::MIN, true),
    ] {
        assert_eq!(sessions.set_clock(&seat, ahead), is_news, "{ahead}");
        assert_eq!(sessions.clock_ahead(worker), Some(ahead));
    }
    // A session that was replaced says nothing of the clock any more.
    let next = sessions.admit(worker, daemon(1), LEASE).unwrap();
    sessions.begin(&next);
    assert!(!sessions.set_clock(&seat, TimeDelta::zero()));
    assert_eq!(sessions.clock_ahead(worker), Some(TimeDelta::MIN));
    assert!(!sessions.set_clock(&next, far * 2), "it was said before");
    let (other, _) = connected(&sessions, 2);
    assert_eq!(sessions.clock_ahead(other), None);
}

#[test]
fn who_is_missed_is_brought_back_once_and_by_the_session_that_is_at_work() {
    let sessions = Sessions::default();
    let (worker, seat) = connected(&sessions, 1);
    assert!(!sessions.take_missed(&seat));
    sessions.miss(worker);
    sessions.miss(worker);
    assert!(sessions.take_missed(&seat));
    assert!(!sessions.take_missed(&seat), "once");
    // Missed when a newer session has the seat: the old one leaves it to that.
    sessions.miss(worker);
    let next = sessions.admit(worker, daemon(1), LEASE).unwrap();
    sessions.begin(&next);
    assert!(!sessions.take_missed(&seat));
    assert!(sessions.take_missed(&next));
    // Also while nobody is there: whoever comes brings it back.
    sessions.leave(&next);
    sessions.miss(worker);
    let again = sessions.admit(worker, daemon(1), LEASE).unwrap();
    assert!(sessions.take_missed(&again));
    // Nobody that is known.
    sessions.miss(WorkerId(Uuid::from_u128(99)));
    let (_, other) = connected(&sessions, 2);
    assert!(!sessions.take_missed(&other));
}
