//! The processes of the server that a world's connections use, one after the other.
//!
//! A connection has one for as long as it is in a transaction, or has left something in its session; then the next
//! one has it. So a world makes as many as it has transactions at once, and not one for each connection: to make one, and
//! to have it plan each statement, is most of what Postgres spends on a world.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::ambush::Ambush;
use super::exchange::{Number, Statements};
use crate::wire::{self, Hello};

/// The name that Postgres gives to a socket in its folder.
pub(super) const SOCKET: &str = ".s.PGSQL.5432";

/// Those of a world. A cheap handle, for the relays of all coordinators.
#[derive(Debug, Clone)]
pub struct Backends(pub(super) Rc<RefCell<Pool>>);

/// What relays share.
#[derive(Debug)]
pub(super) struct Pool {
    socket: PathBuf,
    admin: Backend,
    /// Those that nobody uses. The last one was used last, and has prepared most.
    free: Vec<Backend>,
    /// The server's answer to an introduction, but for the client's name.
    welcomes: BTreeMap<Vec<(String, String)>, Vec<u8>>,
    pub(super) statements: Statements,
    /// Names whose connections were ended on purpose, with the first connection that was not.
    ended: BTreeMap<String, u64>,
    applications: BTreeSet<String>,
    connections: u64,
    /// Processes that were made.
    made: u64,
    /// Faults that wait for a COMMIT.
    pub(super) ambushes: VecDeque<Ambush>,
}

/// A process of the server's.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) stream: UnixStream,
    pub(super) pid: i32,
    hello: Hello,
    pub(super) prepared: BTreeSet<Number>,
}

impl Backends {
    /// For the database `name` of the server whose socket lies in `folder`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn new(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let socket = folder.join(SOCKET);
        let pairs = [("user", "marquee"), ("database", name)];
        let hello = Hello {
            application: "the world".to_owned(),
            rest: pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        };
        let (admin, _) = Backend::start(&socket, &hello)?;
        Ok(Self(Rc::new(RefCell::new(Pool {
            socket,
            admin,
            free: Vec::new(),
            welcomes: BTreeMap::new(),
            statements: Statements::default(),
            ended: BTreeMap::new(),
            applications: BTreeSet::new(),
            connections: 0,
            made: 0,
            ambushes: VecDeque::new(),
        }))))
    }

    /// The first column of what a query gives, asked past every fault.
    ///
    /// # Errors
    /// When the server refuses it.
    pub fn ask(&self, query: &str) -> anyhow::Result<Vec<String>> {
        self.0.borrow_mut().admin.ask(query)
    }

    /// Connections that there were, and processes that served them.
    #[must_use]
    pub fn count(&self) -> (u64, u64) {
        let pool = self.0.borrow();
        (pool.connections, pool.made)
    }

    /// Lays a fault for a COMMIT to come.
    pub fn lay(&self, ambush: Ambush) {
        self.0.borrow_mut().ambushes.push_back(ambush);
    }

    /// Takes one away that nobody ran into.
    pub fn lift(&self, ambush: Ambush) {
        let ambushes = &mut self.0.borrow_mut().ambushes;
        if let Some(place) = ambushes.iter().position(|laid| *laid == ambush) {
            ambushes.remove(place);
        }
    }
}

impl Pool {
    /// A new connection's number, and what its client is answered.
    pub(super) fn greet(&mut self, hello: &Hello) -> anyhow::Result<(u64, Vec<u8>)> {
        let number = self.connections;
        self.connections += 1;
        self.applications.insert(hello.application.clone());
        // A process is made for the first of a kind alone. Others get one when they ask for
        // something.
        if let Some(welcome) = self.welcomes.get(&hello.rest) {
            return Ok((number, welcome.clone()));
        }
        let (backend, welcome) = self.make(hello)?;
        self.free.push(backend);
        self.welcomes.insert(hello.rest.clone(), welcome.clone());
        Ok((number, welcome))
    }

    /// A process for the client that introduced itself so.
    pub(super) fn lend(&mut self, hello: &Hello) -> anyhow::Result<Backend> {
        loop {
            let fits = |backend: &Backend| backend.hello.rest == hello.rest;
            let Some(place) = self.free.iter().rposition(fits) else {
                return Ok(self.make(hello)?.0);
            };
            let mut backend = self.free.remove(place);
            if backend.has_ended()? {
                continue;
            }
            if backend.hello.application != hello.application {
                // As it would be called if it were this client's alone: successors look for it by name.
                let name = hello.application.replace('\'', "''");
                backend.ask(&format!("SET application_name = '{name}'"))?;
                backend.hello.application.clone_from(&hello.application);
            }
            return Ok(backend);
        }
    }

    fn make(&mut self, hello: &Hello) -> anyhow::Result<(Backend, Vec<u8>)> {
        self.made += 1;
        let (mut backend, welcome) = Backend::start(&self.socket, &timeless(hello))?;
        // As the client said it, without what was added: by that `lend` finds one that fits.
        backend.hello = hello.clone();
        Ok((backend, welcome))
    }

    /// It is nobody's any more, in no transaction, and its session is as it was made.
    pub(super) fn give_back(&mut self, backend: Backend) {
        self.free.push(backend);
    }

    /// One that nobody uses is ended, as one behind a connection that is idle.
    pub(super) fn end_one(&mut self) -> anyhow::Result<()> {
        match self.free.pop() {
            Some(backend) => self.terminate(backend),
            None => Ok(()),
        }
    }

    /// Ends it as an administrator does. What it had begun is rolled back, and its locks are free, before this comes
    /// back.
    pub(super) fn terminate(&mut self, mut backend: Backend) -> anyhow::Result<()> {
        self.admin
            .ask(&format!("SELECT pg_terminate_backend({})", backend.pid))?;
        backend.drain()
    }

    pub(super) fn is_blocked(&mut self, pid: i32) -> anyhow::Result<bool> {
        let query = format!("SELECT cardinality(pg_blocking_pids({pid}))");
        let blockers = self.admin.ask(&query)?;
        Ok(blockers.first().is_some_and(|count| count != "0"))
    }

    /// A client has had the sessions of others ended, by their name in its request: those that hold a process hear it of
    /// that, and those that hold none are to hear it all the same.
    pub(super) fn note_ended(&mut self, request: &[u8]) -> anyhow::Result<()> {
        let is_named = |name: &String| {
            !name.is_empty()
                && request
                    .windows(name.len())
                    .any(|part| part == name.as_bytes())
        };
        for name in self.applications.iter().filter(|name| is_named(name)) {
            self.ended.insert(name.clone(), self.connections);
            for backend in &mut self.free {
                // Waited for: before anything else moves, what they held is to be free.
                if backend.hello.application == *name {
                    backend.drain()?;
                }
            }
        }
        let ended = &self.ended;
        self.free
            .retain(|backend| !ended.contains_key(&backend.hello.application));
        Ok(())
    }

    /// Whether the connection of this number was ended so.
    pub(super) fn was_ended(&self, application: &str, number: u64) -> bool {
        self.ended
            .get(application)
            .is_some_and(|first| number < *first)
    }
}

/// The same without the limits that Postgres counts in real time, of which a world has as much as the machine takes: how
/// long a statement may take, and how long a transaction may lie idle.
fn timeless(hello: &Hello) -> Hello {
    let mut hello = hello.clone();
    let options = hello.rest.iter_mut().find(|(name, _)| name == "options");
    if let Some((_, options)) = options {
        options.push_str(" -c statement_timeout=0 -c idle_in_transaction_session_timeout=0");
    }
    hello
}

impl Backend {
    fn start(socket: &Path, hello: &Hello) -> anyhow::Result<(Self, Vec<u8>)> {
        let mut stream = UnixStream::connect(socket).context("the server is gone")?;
        stream.write_all(&hello.packet())?;
        let mut backend = Self {
            stream,
            pid: 0,
            hello: hello.clone(),
            prepared: BTreeSet::new(),
        };
        let welcome = backend.hear()?;
        backend.pid = wire::answer(&welcome, &mut 0).pid.unwrap_or(0);
        Ok((backend, welcome))
    }

    /// The first column of what a query gives.
    fn ask(&mut self, query: &str) -> anyhow::Result<Vec<String>> {
        self.stream.write_all(&wire::query(query))?;
        let answer = self.hear()?;
        match wire::error(&answer) {
            Some(error) => bail!("{query}: {error}"),
            None => Ok(wire::first_values(&answer)),
        }
    }

    /// A whole answer.
    fn hear(&mut self) -> anyhow::Result<Vec<u8>> {
        let (mut bytes, mut scanned) = (Vec::new(), 0);
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = self.stream.read(&mut buffer)?;
            if count == 0 {
                bail!("Postgres has closed a connection of the relay");
            }
            bytes.extend_from_slice(&buffer[..count]);
            if wire::answer(&bytes, &mut scanned).is_whole {
                return Ok(bytes);
            }
        }
    }

    /// What its client had begun is undone, as at the end of its connection. False: it has ended meanwhile.
    pub(super) fn roll_back(&mut self) -> bool {
        self.ask("ROLLBACK").is_ok()
    }

    /// Says goodbye, and waits until it has gone, and with it all that it held.
    pub(super) fn dismiss(mut self) -> anyhow::Result<()> {
        // It may have been ended by a successor already.
        let _ = self.stream.write_all(&wire::GOODBYE);
        self.drain()
    }

    fn has_ended(&self) -> anyhow::Result<bool> {
        // It says nothing unasked before its end.
        let mut files = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut files, PollTimeout::ZERO)? > 0)
    }

    /// Waits for its end.
    fn drain(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
