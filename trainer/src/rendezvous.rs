//! How the ranks of an attempt find each other, and the group that they form.
//!
//! Invariant: ranks meet under a prefix of their own attempt, so that an old attempt's rank never
//! meets a new one's. Every wait has an end, and asks in between whether to stop. The store itself
//! lives outside the ranks, for a rank may die. Going on without it is [`regroup`]'s.

use std::net::{TcpListener, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use marquee_domain::FailureClass;
use marquee_domain::child::{ChildSpec, env};
use marquee_domain::spec::Backend;
use tch::{Device, Tensor};

use crate::error::{RunError, TorchError};
use crate::ffi::{Group, Store};
use crate::stop::Stop;

mod carry;
mod regroup;

pub(crate) use carry::Carrier;
use carry::Joining;
pub(crate) use regroup::Standing;

/// How long a rank waits for the store and for all its peers. Hosts fetch inputs before they start
/// their ranks, and one may have to fetch what the other has in its cache.
const RENDEZVOUS_TIMEOUT: Duration = Duration::from_secs(300);
/// One try to reach the store; between tries we look whether to stop.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two looks at who has arrived.
const ARRIVAL_POLL: Duration = Duration::from_millis(20);
/// A request to the store's own client; the server waits for nobody.
const SERVER_TIMEOUT: Duration = Duration::from_secs(30);

/// Which process of an attempt this is. The variables are those of torchrun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) rank: u32,
    pub(crate) world_size: u32,
    /// Host and port of the store. None for one rank.
    pub(crate) store: Option<(String, u16)>,
    /// Ranks that may go on when others are lost. None: a lost rank ends the attempt.
    pub(crate) min_ranks: Option<u32>,
    /// Host and port of another store, for ranks that go on after the first was lost.
    pub(crate) standby: Option<(String, u16)>,
    /// File that comes to name the ranks which the coordinator has given up.
    pub(crate) lost_ranks: Option<PathBuf>,
}

impl Place {
    /// One rank, alone.
    #[must_use]
    pub(crate) fn alone() -> Self {
        Self {
            rank: 0,
            world_size: 1,
            store: None,
            min_ranks: None,
            standby: None,
            lost_ranks: None,
        }
    }

    /// The place that environment variables name; None if `RANK` is not set.
    ///
    /// # Errors
    /// [`RunError`] that names the variable that is missing or wrong.
    pub(crate) fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, RunError> {
        let Some(rank) = get(env::RANK) else {
            return Ok(None);
        };
        let number = |name: &str, text: String| -> Result<u32, RunError> {
            text.parse().map_err(|_| {
                RunError::user(format!("{name} is {text:?}, but must be a whole number"))
            })
        };
        let needed = |name: &str| {
            get(name).ok_or_else(|| {
                RunError::user(format!("{} is set, but {name} is not; set both", env::RANK))
            })
        };
        let rank = number(env::RANK, rank)?;
        let world_size = number(env::WORLD_SIZE, needed(env::WORLD_SIZE)?)?;
        if rank >= world_size {
            return Err(RunError::user(format!(
                "{} is {rank}, but must be below {} ({world_size})",
                env::RANK,
                env::WORLD_SIZE
            )));
        }
        if world_size == 1 {
            return Ok(Some(Self::alone()));
        }
        let port = needed(env::MASTER_PORT)?;
        let port = port.parse().map_err(|_| {
            RunError::user(format!(
                "{} is {port:?}, but must be a port",
                env::MASTER_PORT
            ))
        })?;
        let min_ranks = get(env::MIN_RANKS)
            .map(|text| number(env::MIN_RANKS, text))
            .transpose()?;
        let standby = get(env::STANDBY_STORE)
            .map(|text| {
                regroup::address(&text).ok_or_else(|| {
                    let name = env::STANDBY_STORE;
                    RunError::user(format!("{name} is {text:?}, but must be host:port"))
                })
            })
            .transpose()?;
        Ok(Some(Self {
            rank,
            world_size,
            store: Some((needed(env::MASTER_ADDR)?, port)),
            min_ranks,
            standby,
            lost_ranks: get(env::LOST_RANKS_FILE).map(PathBuf::from),
        }))
    }
}

/// A rank among its peers. With one rank every operation does nothing.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) rank: u32,
    pub(crate) world_size: u32,
    group: Option<Group>,
    carrier: Option<Carrier>,
    gathering: Option<Gathering>,
}

/// How ranks exchange tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exchange {
    /// Where the tensors lie.
    pub(crate) device: Device,
    /// What carries those of GPUs.
    pub(crate) backend: Backend,
    /// Of each operation.
    pub(crate) timeout: Duration,
}

/// What it takes to form another group.
#[derive(Debug)]
struct Gathering {
    /// With the prefix of the attempt.
    store: Store,
    prefix: String,
    /// Where to meet once the store is lost.
    standby: Option<(String, u16)>,
    /// The store was lost, and `store` is its standby.
    is_at_standby: bool,
    lost_ranks: Option<PathBuf>,
    /// When it was looked who was given up.
    looked_at: Instant,
    /// This rank's own.
    address: String,
    exchange: Exchange,
    min_ranks: Option<u32>,
    /// Groups that came before.
    generation: u32,
    /// How often it was tried to form another.
    tries: u32,
    /// The ranks of the present group, as they were numbered at the start.
    members: Vec<u32>,
    /// This rank, as it was numbered at the start.
    me: u32,
}

impl Peers {
    /// A rank without any.
    pub(crate) fn alone() -> Self {
        Self {
            rank: 0,
            world_size: 1,
            group: None,
            carrier: None,
            gathering: None,
        }
    }

    /// Joins the peers of `spec`'s attempt; None if asked to stop before all were there.
    pub(crate) fn join(
        spec: &ChildSpec,
        place: &Place,
        exchange: Exchange,
        stop: &Stop,
    ) -> Result<Option<Self>, RunError> {
        let Place {
            rank,
            world_size,
            ref store,
            min_ranks,
            ref standby,
            ref lost_ranks,
        } = *place;
        let Some((host, port)) = store else {
            return Ok(Some(Self {
                rank,
                world_size,
                ..Self::alone()
            }));
        };
        let deadline = Instant::now() + RENDEZVOUS_TIMEOUT;
        let Some(store) = connect(host, *port, deadline, stop)? else {
            return Ok(None);
        };
        let prefix = format!("job/{}/attempt/{}", spec.job, spec.attempt);
        let store = store.prefixed(&prefix)?;
        if !wait_for_all(&store, rank, world_size, deadline, stop)? {
            return Ok(None);
        }
        let address = own_address(host, *port)?;
        let (group, carrier) = exchange
            .joining(rank, world_size, &address)
            .form(&store)
            .map_err(|error| error.during("joining the other ranks"))?;
        let backend = carrier.name;
        tracing::info!(rank, world_size, %address, backend, "joined the other ranks");
        Ok(Some(Self {
            rank,
            world_size,
            group: Some(group),
            carrier: Some(carrier),
            gathering: Some(Gathering {
                store,
                prefix,
                standby: standby.clone(),
                is_at_standby: false,
                lost_ranks: lost_ranks.clone(),
                looked_at: Instant::now(),
                address,
                exchange,
                min_ranks,
                generation: 0,
                tries: 0,
                members: (0..world_size).collect(),
                me: rank,
            }),
        }))
    }

    /// Whether this is the rank that writes what all have in common.
    pub(crate) fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Name of what carries the all-reduce.
    pub(crate) fn backend(&self) -> &'static str {
        let carrier = self.carrier.as_ref().filter(|_| self.group.is_some());
        carrier.map_or("none", |carrier| carrier.name)
    }

    /// What the reader must know of it.
    pub(crate) fn warning(&self) -> Option<&str> {
        self.carrier.as_ref()?.warning.as_deref()
    }

    /// Whether an exchange between GPUs may fail without a word, after which the run goes on.
    pub(crate) fn may_lose_an_exchange(&self) -> bool {
        self.backend() == "nccl" && self.may_regroup()
    }

    /// An error if an exchange between GPUs has failed.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        match &self.group {
            Some(group) => Ok(group.check()?),
            None => Ok(()),
        }
    }

    /// The group; None for one rank.
    pub(crate) fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// Sums numbers over all ranks, in f64.
    pub(crate) fn sum<const N: usize>(&self, values: [f64; N]) -> Result<[f64; N], RunError> {
        let Some(group) = &self.group else {
            return Ok(values);
        };
        let tensor = Tensor::f_from_slice(&values)?;
        group.all_reduce_sum(&tensor)?;
        let mut summed = [0.0; N];
        tensor.f_copy_data(&mut summed, N)?;
        Ok(summed)
    }

    /// Overwrites `tensors` with those of rank 0.
    pub(crate) fn copy_from_first(&self, tensors: &[Tensor]) -> Result<(), RunError> {
        self.copy_from(0, tensors)
    }

    /// Overwrites `tensors` with those of rank `source`.
    pub(crate) fn copy_from(&self, source: u32, tensors: &[Tensor]) -> Result<(), RunError> {
        match &self.group {
            // libtorch takes no list of nothing, such as the buffers of a network without norms.
            Some(group) if !tensors.is_empty() => Ok(group.broadcast(tensors, source)?),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns when every rank has come here.
    pub(crate) fn meet(&self) -> Result<(), RunError> {
        match &self.group {
            Some(group) => Ok(group.barrier()?),
            None => Ok(()),
        }
    }

    /// Leaves in order, after all ranks have met: nobody needs anybody any more.
    pub(crate) fn leave(self) {
        if let Some(group) = self.group {
            group.close();
        }
    }
}

impl Exchange {
    fn joining(self, rank: u32, size: u32, address: &str) -> Joining {
        Joining {
            rank,
            size,
            address: address.to_owned(),
            timeout: self.timeout,
            device: self.device,
            wanted: self.backend,
        }
    }
}

fn connect(
    host: &str,
    port: u16,
    deadline: Instant,
    stop: &Stop,
) -> Result<Option<Store>, RunError> {
    loop {
        let error = match Store::connect(host, port, CONNECT_TIMEOUT) {
            Ok(store) => return Ok(Some(store)),
            Err(error) => error,
        };
        if stop.is_requested() {
            return Ok(None);
        }
        if Instant::now() > deadline {
            return Err(RunError::new(
                FailureClass::Network,
                format!("the rendezvous store at {host}:{port} cannot be reached: {error}"),
            ));
        }
        tracing::warn!(host, port, %error, "the rendezvous store does not answer yet");
    }
}

/// Waits until every rank is there; false if asked to stop before.
fn wait_for_all(
    store: &Store,
    rank: u32,
    world_size: u32,
    deadline: Instant,
    stop: &Stop,
) -> Result<bool, TorchError> {
    let key = |rank: u32| format!("arrived/{rank}");
    store.set(&key(rank), b"1")?;
    let mut missing: Vec<u32> = (0..world_size).filter(|peer| *peer != rank).collect();
    loop {
        let mut still_missing = Vec::new();
        for peer in missing {
            if !store.has(&key(peer))? {
                still_missing.push(peer);
            }
        }
        missing = still_missing;
        if missing.is_empty() {
            return Ok(true);
        }
        if stop.is_requested() {
            return Ok(false);
        }
        if Instant::now() > deadline {
            let seconds = RENDEZVOUS_TIMEOUT.as_secs();
            return Err(TorchError::Network(format!(
                "ranks {missing:?} did not arrive within {seconds} s"
            )));
        }
        thread::sleep(ARRIVAL_POLL);
    }
}

/// The address under which this host is reached from where the store is: that of the interface
/// through which we reach the store. No packet is sent.
fn own_address(host: &str, port: u16) -> Result<String, RunError> {
    let find = || -> std::io::Result<String> {
        let peer = (host, port)
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| std::io::Error::other("no address"))?;
        let socket = UdpSocket::bind(if peer.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        })?;
        socket.connect(peer)?;
        Ok(socket.local_addr()?.ip().to_string())
    };
    find().map_err(|error| {
        RunError::new(
            FailureClass::Network,
            format!("no way from this host to {host}:{port}: {error}"),
        )
    })
}

/// A store for ranks to meet at, served from a thread until dropped.
#[derive(Debug)]
pub(crate) struct StoreServer {
    pub(crate) host: String,
    pub(crate) port: u16,
    _store: Store,
}

impl StoreServer {
    /// Serves on `host`, and on no other address: the store knows no passwords. Port 0 takes any.
    ///
    /// # Errors
    /// [`RunError`] when the address is not of this host, or the port is taken.
    pub(crate) fn start(host: &str, port: u16) -> Result<Self, RunError> {
        let failed = |error: &dyn std::fmt::Display| {
            RunError::new(
                FailureClass::Network,
                format!("cannot serve a rendezvous store at {host}:{port}: {error}"),
            )
        };
        let listener = TcpListener::bind((host, port)).map_err(|error| failed(&error))?;
        let port = listener
            .local_addr()
            .map_err(|error| failed(&error))?
            .port();
        let store = Store::serve(listener, SERVER_TIMEOUT).map_err(|error| failed(&error))?;
        Ok(Self {
            host: host.to_owned(),
            port,
            _store: store,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Option<Place>, RunError> {
        Place::from_env(|name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_place_is_read_as_torchrun_sets_it() {
        assert_eq!(place(&[]).unwrap(), None);
        assert_eq!(
            place(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(),
            Some(Place::alone())
        );
        let two = [
            ("RANK", "1"),
            ("WORLD_SIZE", "2"),
            ("MASTER_ADDR", "h"),
            ("MASTER_PORT", "29500"),
        ];
        let expected = Place {
            rank: 1,
            world_size: 2,
            store: Some(("h".into(), 29_500)),
            ..Place::alone()
        };
        assert_eq!(place(&two).unwrap(), Some(expected));
    }

    #[test]
    fn a_wrong_place_is_refused_by_name() {
        let message = |variables: &[(&str, &str)]| place(variables).unwrap_err().message;
        assert!(message(&[("RANK", "0")]).contains("WORLD_SIZE is not"));
        assert!(message(&[("RANK", "x"), ("WORLD_SIZE", "2")]).contains("RANK is \"x\""));
        assert!(message(&[("RANK", "2"), ("WORLD_SIZE", "2")]).contains("must be below"));
        assert!(
            message(&[("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "1")])
                .contains("MASTER_ADDR")
        );
    }

    #[test]
    fn a_store_serves_those_who_connect_and_keeps_prefixes_apart() {
        let server = StoreServer::start("127.0.0.1", 0).unwrap();
        let connect = || Store::connect(&server.host, server.port, Duration::from_secs(5)).unwrap();
        let (old, new) = (
            connect().prefixed("job/1/attempt/1").unwrap(),
            connect().prefixed("job/1/attempt/2").unwrap(),
        );
        old.set("arrived/0", b"1").unwrap();
        assert!(old.has("arrived/0").unwrap());
        assert!(!new.has("arrived/0").unwrap());
    }

    #[test]
    fn a_store_is_reached_at_its_own_address_alone() {
        let server = StoreServer::start("127.0.0.1", 0).unwrap();
        let reaches = |host: &str| {
            let address = format!("{host}:{}", server.port).parse().unwrap();
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok()
        };
        assert!(reaches("127.0.0.1"));
        // Another address of this very host.
        assert!(!reaches("127.0.0.2"));
    }

    #[test]
    fn a_rank_that_waits_for_peers_can_be_stopped_and_names_them_when_time_is_up() {
        let server = StoreServer::start("127.0.0.1", 0).unwrap();
        let store = Store::connect(&server.host, server.port, Duration::from_secs(5)).unwrap();
        let soon = Instant::now() + Duration::from_millis(50);
        let error = wait_for_all(&store, 1, 4, soon, &Stop::default()).unwrap_err();
        assert!(error.to_string().contains("[0, 2, 3]"), "{error}");
        let stop = Stop::default();
        stop.request();
        let later = Instant::now() + Duration::from_secs(60);
        assert!(!wait_for_all(&store, 1, 4, later, &stop).unwrap());
    }
}
