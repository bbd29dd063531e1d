//! Going on without ranks that were lost: the survivors agree on who they are and form a new group.
//!
//! Each survivor leaves its standing in the store and waits a while for the others; then the first to
//! propose a list of members fixes it for all, by one atomic operation of the store. Invariants: a
//! generation has one list, whoever asks; who is not on it leaves, and can never meet those who go
//! on, for each generation has a prefix of its own. So a rank that was only slow, or cut off for a
//! while, cannot train on beside the others. Whom the coordinator has given up is on no list.
//!
//! A store that is lost with its host has a standby on another. Where a network was cut in two, some
//! may meet here and some there: then the coordinator decides whose work counts.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use marquee_domain::FailureClass;
use serde::{Deserialize, Serialize};

use super::{ARRIVAL_POLL, Gathering, Peers};
use crate::error::RunError;
use crate::ffi::Store;

/// How long survivors wait for each other at least. Whoever shares a connection with a lost rank
/// notices within milliseconds, others when the first give up.
const REGROUP_WINDOW: Duration = Duration::from_secs(3);
/// Times a run regroups at most: a network that breaks so often is no network to train over.
const REGROUPS_MAX: u32 = 100;

/// How long the store may take to answer. It waits for nobody, so silence means that it is gone.
const STORE_ANSWER_MAX: Duration = Duration::from_secs(5);
/// How much longer survivors wait for each other at the standby: one finds the store's connection
/// broken at once, another waits until it has been silent for long enough, and then connects.
const STANDBY_WINDOW: Duration = Duration::from_secs(2 * STORE_ANSWER_MAX.as_secs());
/// Time between two looks at whom the coordinator has given up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where a survivor stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Steps done, and whether all that follows a step (reports, validation) is done too.
    pub(crate) progress: (u64, bool),
    /// The weights are no longer those of any step: they were being overwritten when a peer was lost.
    pub(crate) is_torn: bool,
    /// What goes with the progress, as JSON.
    pub(crate) position: String,
}

/// What the survivors agreed on.
#[derive(Debug)]
pub(crate) struct Regrouped {
    /// The rank, as now numbered, that has come furthest.
    pub(crate) source: u32,
    /// Its standing.
    pub(crate) standing: Standing,
    /// Whether somebody has not come as far and needs the source's state.
    pub(crate) needs_copy: bool,
    /// Those that go on, as they were numbered at the start.
    pub(crate) members: Vec<u32>,
    /// Steps that somebody had done and that are done again.
    pub(crate) steps_lost: u64,
}

/// Host and port of `host:port`.
pub(super) fn address(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    Some((host.to_owned(), port.parse().ok()?))
}

impl Peers {
    /// Whether this gang may go on with fewer ranks.
    pub(crate) fn may_regroup(&self) -> bool {
        self.gathering.as_ref().is_some_and(|gathering| {
            gathering.min_ranks.is_some() && gathering.tries < REGROUPS_MAX
        })
    }

    /// An error that ends the present group, where the coordinator has given up a member of it. The
    /// file is looked at now and then; where it cannot be read nobody is given up.
    pub(crate) fn leave_behind(&mut self) -> Result<(), RunError> {
        let Some(gathering) = &mut self.gathering else {
            return Ok(());
        };
        let Some(path) = &gathering.lost_ranks else {
            return Ok(());
        };
        if gathering.looked_at.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        gathering.looked_at = Instant::now();
        let Ok(text) = std::fs::read(path) else {
            return Ok(());
        };
        let lost: Vec<u32> = serde_json::from_slice(&text).unwrap_or_default();
        let lost: Vec<u32> = lost
            .into_iter()
            .filter(|rank| gathering.members.contains(rank))
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        if answers(&gathering.store) {
            for rank in &lost {
                gathering.store.set(&given_up_key(*rank), b"1")?;
            }
        }
        Err(RunError::new(
            FailureClass::Network,
            format!("the coordinator has given up ranks {lost:?}"),
        ))
    }

    /// Forms a new group of the ranks that still answer. An error of the class `Network` is worth
    /// another try, with those that are left then; one of another class is the end.
    /// `step_time` is what a step takes: a survivor
    /// in the midst of one notices only at its end.
    pub(crate) fn regroup(
        &mut self,
        mine: &Standing,
        step_time: Duration,
    ) -> Result<Regrouped, RunError> {
        if let Some(group) = self.group.take() {
            // What GPUs still exchange with the lost rank would never end by itself.
            if let Err(error) = group.abort() {
                tracing::warn!(%error, "the old group cannot be ended in order");
            }
            // A group is freed when its operations have failed too, which breaks the connections by
            // which the others notice. That may take as long as an operation hangs.
            drop(thread::spawn(move || group.close()));
        }
        let gathering = self
            .gathering
            .as_mut()
            .ok_or_else(|| RunError::host("a rank without peers has nobody to regroup with"))?;
        gathering.tries += 1;
        find_store(gathering)?;
        // Tried again under the same number until its list is known: whoever missed it must find it.
        let store = gathering
            .store
            .prefixed(&format!("regroup/{}", gathering.generation + 1))?;
        let mut window = REGROUP_WINDOW + step_time * 2;
        if gathering.is_at_standby {
            window += STANDBY_WINDOW;
        }
        let here = gather(&store, gathering, mine, window)?;
        let members = agree(&store, gathering, here)?;
        gathering.generation += 1;
        let place = |rank: u32| members.iter().position(|member| *member == rank);
        let Some(rank) = place(gathering.me) else {
            return Err(RunError::new(
                FailureClass::LostWorker,
                format!("ranks {members:?} went on without this one, which answered too late"),
            ));
        };
        let standings = members
            .iter()
            .map(|member| read_standing(&store, *member))
            .collect::<Result<Vec<_>, _>>()?;
        let (source, furthest) = standings
            .iter()
            .enumerate()
            .filter(|(_, standing)| !standing.is_torn)
            .max_by_key(|(place, standing)| (standing.progress, std::cmp::Reverse(*place)))
            .ok_or_else(|| {
                RunError::new(
                    FailureClass::LostWorker,
                    "no rank is left with a whole state; the next attempt goes on from a checkpoint",
                )
            })?;
        let needs_copy = standings
            .iter()
            .any(|standing| standing.is_torn || standing.progress != furthest.progress);
        let furthest_of_all = standings.iter().map(|standing| standing.progress.0).max();
        let steps_lost = furthest_of_all
            .unwrap_or(0)
            .saturating_sub(furthest.progress.0);
        let world_size = count(members.len());
        self.rank = count(rank);
        self.world_size = world_size;
        if world_size > 1 {
            let (group, carrier) = gathering
                .exchange
                .joining(self.rank, world_size, &gathering.address)
                .form(&store)?;
            self.group = Some(group);
            self.carrier = Some(carrier);
        }
        gathering.members.clone_from(&members);
        Ok(Regrouped {
            source: count(source),
            standing: furthest.clone(),
            needs_copy,
            members,
            steps_lost,
        })
    }
}

/// Turns to the standby where the store is lost.
fn find_store(gathering: &mut Gathering) -> Result<(), RunError> {
    if answers(&gathering.store) {
        return Ok(());
    }
    let lost = |what: &str| {
        RunError::new(
            FailureClass::LostWorker,
            format!(
                "the rendezvous store is lost{what}; the next attempt goes on from a checkpoint"
            ),
        )
    };
    let Some((host, port)) = gathering.standby.take() else {
        return Err(lost(", and there is no other"));
    };
    tracing::warn!(
        host,
        port,
        "the rendezvous store is lost; going to its standby"
    );
    let standby = Store::connect(&host, port, STORE_ANSWER_MAX)
        .and_then(|store| store.prefixed(&gathering.prefix))
        .map_err(|error| lost(&format!(", and its standby at {host}:{port} too: {error}")))?;
    if !answers(&standby) {
        return Err(lost(&format!(
            ", and its standby at {host}:{port} is silent"
        )));
    }
    gathering.store = standby;
    gathering.is_at_standby = true;
    Ok(())
}

/// Whether the store answers in time. Its own calls wait for ever where its host has vanished, so
/// one is made in a thread that may stay behind.
fn answers(store: &Store) -> bool {
    let Ok(probe) = store.prefixed("alive") else {
        return false;
    };
    let (sender, receiver) = mpsc::channel();
    let asked = thread::Builder::new()
        .name("store-probe".to_owned())
        .spawn(move || {
            // Nobody listens any more where it took too long.
            let _ = sender.send(probe.has("probe").is_ok());
        });
    asked.is_ok() && receiver.recv_timeout(STORE_ANSWER_MAX).unwrap_or(false)
}

fn given_up_key(rank: u32) -> String {
    format!("given-up/{rank}")
}

/// Leaves this rank's standing, and returns the ranks that have left theirs once all have, or once
/// `window` is over.
fn gather(
    store: &Store,
    gathering: &Gathering,
    mine: &Standing,
    window: Duration,
) -> Result<Vec<u32>, RunError> {
    if gathering.store.has(&given_up_key(gathering.me))? {
        return Err(RunError::new(
            FailureClass::LostWorker,
            "the coordinator has given up this rank, and the others go on without it",
        ));
    }
    let text = serde_json::to_vec(mine)
        .map_err(|error| RunError::host(format!("a standing has no form in JSON: {error}")))?;
    store.set(&here_key(gathering.me), &text)?;
    let deadline = Instant::now() + window;
    loop {
        let (mut here, mut awaited) = (Vec::new(), 0);
        for member in &gathering.members {
            if gathering.store.has(&given_up_key(*member))? {
                continue;
            }
            awaited += 1;
            if store.has(&here_key(*member))? {
                here.push(*member);
            }
        }
        let is_fixed = store.has(MEMBERS)?;
        if here.len() == awaited || is_fixed || Instant::now() > deadline {
            return Ok(here);
        }
        thread::sleep(ARRIVAL_POLL);
    }
}

const MEMBERS: &str = "members";

fn here_key(rank: u32) -> String {
    format!("here/{rank}")
}

/// The members of this generation: those that `here` lists, unless somebody has fixed others before.
fn agree(store: &Store, gathering: &Gathering, here: Vec<u32>) -> Result<Vec<u32>, RunError> {
    let least = gathering.min_ranks.unwrap_or(u32::MAX);
    if count(here.len()) < least && !store.has(MEMBERS)? {
        return Err(RunError::new(
            FailureClass::LostWorker,
            format!(
                "of ranks {:?} only {here:?} are left, but the job needs {least}",
                gathering.members
            ),
        ));
    }
    let broken = |error: serde_json::Error| {
        RunError::host(format!("the list of members cannot be read: {error}"))
    };
    let proposal = serde_json::to_vec(&here).map_err(broken)?;
    serde_json::from_slice(&store.agree(MEMBERS, &proposal)?).map_err(broken)
}

fn read_standing(store: &Store, rank: u32) -> Result<Standing, RunError> {
    serde_json::from_slice(&store.get(&here_key(rank))?).map_err(|error| {
        RunError::host(format!(
            "the standing of rank {rank} cannot be read: {error}"
        ))
    })
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("there are no more members than ranks, which are u32")
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::rendezvous::{Exchange, StoreServer};

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
            let (rank, world_size, source, furthest, (members, lost), sum) =
                survivor.join().unwrap();
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
}
