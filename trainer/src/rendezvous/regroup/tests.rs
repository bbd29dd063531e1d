use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::ffi::Store;
use crate::rendezvous::exchange::Exchange;
use crate::rendezvous::gathering::Gathering;
use crate::rendezvous::server::StoreServer;

/// A rank of a gang of `size`, as if the group had just been lost.
fn peers(port: u16, me: u32, size: u32, min_ranks: u32) -> Peers {
    let timeout = Duration::from_secs(20);
    let store = Store::connect("127.0.0.1", port, timeout).unwrap();
    Peers {
        rank: me,
        world_size: size,
        group: None,
        carrier: None,
        gathering: Some(Gathering {
            store,
            prefix: "job/1/attempt/1".to_owned(),
            standby: None,
            is_at_standby: false,
            lost_ranks: None,
            looked_at: Instant::now(),
            address: "127.0.0.1".to_owned(),
            exchange: Exchange {
                device: tch::Device::Cpu,
                backend: marquee_domain::spec::Backend::Auto,
                timeout,
            },
            min_ranks: Some(min_ranks),
            generation: 0,
            tries: 0,
            members: (0..size).collect(),
            me,
        }),
    }
}

fn standing(step: u64, is_torn: bool) -> Standing {
    Standing {
        progress: (step, true),
        is_torn,
        position: format!("{{\"step\":{step}}}"),
    }
}

#[test]
fn survivors_go_on_from_the_one_that_came_furthest_with_a_whole_state() {
    let server = StoreServer::start("127.0.0.1", 0).unwrap();
    // Rank 1 of 4 is lost; rank 3 came furthest, but its state is torn.
    let survivors = [(0, 7, false), (2, 8, false), (3, 9, true)].map(|(me, step, torn)| {
        let port = server.port;
        thread::spawn(move || {
            let mut peers = peers(port, me, 4, 2);
            let regrouped = peers
                .regroup(&standing(step, torn), Duration::ZERO)
                .unwrap();
            let [sum] = peers.sum([f64::from(me)]).unwrap();
            (
                peers.rank,
                peers.world_size,
                regrouped.source,
                regrouped.standing,
                (regrouped.members, regrouped.steps_lost),
                sum,
            )
        })
    });
    for (place, survivor) in (0_u32..).zip(survivors) {
        let (rank, world_size, source, furthest, (members, lost), sum) = survivor.join().unwrap();
        assert_eq!((rank, world_size, source), (place, 3, 1));
        assert_eq!(furthest, standing(8, false));
        assert_eq!((members, lost), (vec![0, 2, 3], 1));
        assert!((sum - 5.0).abs() < 1e-12);
    }
}

#[test]
fn who_missed_a_list_finds_it_however_late_and_never_goes_on_alone() {
    let server = StoreServer::start("127.0.0.1", 0).unwrap();
    let mut early = peers(server.port, 0, 2, 1);
    early.regroup(&standing(4, false), Duration::ZERO).unwrap();
    // It was cut off meanwhile, and had tried several times.
    let mut late = peers(server.port, 1, 2, 1);
    late.gathering.as_mut().unwrap().tries = 7;
    for _ in 0..2 {
        let error = late
            .regroup(&standing(9, false), Duration::ZERO)
            .unwrap_err();
        assert_eq!(error.class, FailureClass::LostWorker);
        late.gathering.as_mut().unwrap().generation = 0;
    }
}

#[test]
fn whom_the_coordinator_gave_up_is_left_behind_though_it_answers() {
    let server = StoreServer::start("127.0.0.1", 0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lost.json");
    let mut told = peers(server.port, 1, 3, 2);
    let gathering = told.gathering.as_mut().unwrap();
    gathering.lost_ranks = Some(file.clone());
    gathering.looked_at = Instant::now() - LOOK_EVERY;
    told.leave_behind().unwrap();
    std::fs::write(&file, "[0]").unwrap();
    told.gathering.as_mut().unwrap().looked_at = Instant::now() - LOOK_EVERY;
    let error = told.leave_behind().unwrap_err();
    assert!(error.message.contains("[0]"), "{}", error.message);

    let given_up = thread::spawn({
        let port = server.port;
        move || peers(port, 0, 3, 2).regroup(&standing(5, false), Duration::ZERO)
    });
    let other = thread::spawn({
        let port = server.port;
        move || peers(port, 2, 3, 2).regroup(&standing(5, false), Duration::ZERO)
    });
    let regrouped = told.regroup(&standing(5, false), Duration::ZERO).unwrap();
    assert_eq!(regrouped.members, [1, 2]);
    assert_eq!(other.join().unwrap().unwrap().members, [1, 2]);
    let error = given_up.join().unwrap().unwrap_err();
    assert!(
        error.message.contains("given up this rank"),
        "{}",
        error.message
    );
}

#[test]
fn survivors_meet_at_the_standby_when_the_store_is_lost() {
    let first = StoreServer::start("127.0.0.1", 0).unwrap();
    let standby = StoreServer::start("127.0.0.1", 0).unwrap();
    let mut both = [1, 2].map(|me| {
        let mut peers = peers(first.port, me, 3, 2);
        peers.gathering.as_mut().unwrap().standby = Some((standby.host.clone(), standby.port));
        peers
    });
    drop(first);
    let [one, two] = &mut both;
    let regrouped = thread::scope(|scope| {
        let two = scope.spawn(|| two.regroup(&standing(6, false), Duration::ZERO).unwrap());
        let one = one.regroup(&standing(6, false), Duration::ZERO).unwrap();
        [one, two.join().unwrap()]
    });
    for survivor in regrouped {
        assert_eq!(survivor.members, [1, 2]);
    }
}

/// A way to the server at `port` on which nothing arrives any more once the returned flag is set,
/// though no connection breaks: what a host without power looks like from afar.
fn way_that_falls_silent(port: u16) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = Arc::clone(&is_silent);
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
            for (from, to) in [(client, server), back] {
                let silent = Arc::clone(&silent);
                thread::spawn(move || pass_on(from, to, &silent));
            }
        }
    });
    (address.port(), is_silent)
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, is_silent: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if is_silent.load(Ordering::SeqCst) || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // Nobody is told.
    while is_silent.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn who_finds_the_store_broken_waits_for_who_only_finds_it_silent() {
    let first = StoreServer::start("127.0.0.1", 0).unwrap();
    let standby = StoreServer::start("127.0.0.1", 0).unwrap();
    let (way, is_silent) = way_that_falls_silent(first.port);
    let [mut broken, mut silent] = [(1, first.port), (2, way)].map(|(me, port)| {
        let mut peers = peers(port, me, 3, 2);
        peers.gathering.as_mut().unwrap().standby = Some((standby.host.clone(), standby.port));
        peers
    });
    is_silent.store(true, Ordering::SeqCst);
    drop(first);
    let silent =
        thread::spawn(move || silent.regroup(&standing(6, false), Duration::ZERO).unwrap());
    let regrouped = broken.regroup(&standing(6, false), Duration::ZERO).unwrap();
    assert_eq!(regrouped.members, [1, 2]);
    assert_eq!(silent.join().unwrap().members, [1, 2]);
}

#[test]
fn without_a_standby_a_lost_store_is_the_end() {
    let first = StoreServer::start("127.0.0.1", 0).unwrap();
    let mut peers = peers(first.port, 1, 3, 2);
    drop(first);
    let error = peers
        .regroup(&standing(1, false), Duration::ZERO)
        .unwrap_err();
    assert_eq!(error.class, FailureClass::LostWorker, "{}", error.message);
}

#[test]
fn too_few_do_not_go_on_and_who_comes_late_leaves() {
    let server = StoreServer::start("127.0.0.1", 0).unwrap();
    let mut alone = peers(server.port, 0, 3, 2);
    let error = alone
        .regroup(&standing(1, false), Duration::ZERO)
        .unwrap_err();
    assert!(
        error.message.contains("only [0] are left"),
        "{}",
        error.message
    );

    let server = StoreServer::start("127.0.0.1", 0).unwrap();
    let mut early = peers(server.port, 2, 3, 1);
    early.regroup(&standing(1, false), Duration::ZERO).unwrap();
    assert_eq!((early.rank, early.world_size), (0, 1));
    let mut late = peers(server.port, 0, 3, 1);
    let error = late
        .regroup(&standing(5, false), Duration::ZERO)
        .unwrap_err();
    assert!(
        error.message.contains("went on without this one"),
        "{}",
        error.message
    );
}
