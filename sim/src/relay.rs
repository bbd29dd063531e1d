//! Between the daemons and Postgres: a relay that moves only while the simulation does not.
//!
//! After each step it takes each connection in a drawn order, gives one whole request to the real server, waits for
//! the answer, and lays it where the daemon finds it in its next step. So a round trip takes one step, whatever the
//! machine does, and the order in which statements reach the server is the seed's.
//!
//! A statement that waits for a lock has no answer: it is left alone, and asked for again after others have moved.
//! That it waits is what Postgres itself says (`pg_blocking_pids`).
//!
//! A connection has a process of the server's while it is in a transaction; between two of them another one may have it
//! (`backends`). What a statement does, waits for and locks is the server's own at all times.

mod ambush;
mod backends;
mod exchange;

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::bail;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use self::ambush::{Ambush, Cut};
pub use self::backends::Backends;
use self::backends::{Backend, SOCKET};
use self::exchange::{Exchange, IDLE, Names, is_known};
use crate::draw::Draw;
use crate::timeline::Timeline;
use crate::wire::{self, Hello, Request};

/// How long to listen for an answer before Postgres is asked whether the statement waits for a lock.
const LISTEN_MS: u16 = 5;
/// So many times nothing is heard before the server counts as broken: two minutes.
const LISTENS_MAX: u32 = 24_000;

/// The relay.
#[derive(Debug)]
pub struct Relay {
    listener: UnixListener,
    backends: Backends,
    links: Vec<Link>,
    draw: Draw,
    timeline: Timeline,
    /// The server cannot be reached.
    pub is_away: bool,
    /// The server stands still: requests and answers stay where they are.
    pub is_still: bool,
    /// It does so as soon as a transaction is to begin while no other one is open.
    pub is_still_at_begin: bool,
    /// Answers are kept back by up to so many steps.
    pub slowness: u64,
    /// The daemon is to be killed now.
    pub kills: bool,
    step: u64,
    /// Requests that were answered, and looks that found one waiting for a lock.
    pub requests: u64,
    pub lock_waits: u64,
}

/// One connection of a daemon.
#[derive(Debug)]
struct Link {
    number: u64,
    client: UnixStream,
    /// Who the client is, once it has said so.
    hello: Option<Hello>,
    names: Names,
    /// Its process of the server, while it has one.
    backend: Option<Backend>,
    /// It has left something in its session, which is its own to the end.
    is_marked: bool,
    /// Its transaction has ended jobs.
    ends_jobs: bool,
    /// What became of its transaction, in Postgres' letters.
    status: u8,
    asked: Vec<u8>,
    /// What the server has been asked and has not answered.
    exchange: Option<Exchange>,
    ends_others: Vec<u8>,
    answer: Vec<u8>,
    scanned: usize,
    /// From which step on the answer may be given.
    given_at: u64,
    /// The answer, or what is left of it.
    to_give: Vec<u8>,
    is_over: bool,
}

impl Relay {
    /// Listens in `folder` for whoever wants to reach the server behind `backends`.
    pub fn new(
        folder: &Path,
        backends: Backends,
        draw: Draw,
        timeline: Timeline,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let listener = UnixListener::bind(folder.join(SOCKET))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            backends,
            links: Vec::new(),
            draw,
            timeline,
            is_away: false,
            is_still: false,
            is_still_at_begin: false,
            slowness: 0,
            kills: false,
            step: 0,
            requests: 0,
            lock_waits: 0,
        })
    }

    /// Moves everything that can move, until the next step.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        self.step += 1;
        // Most steps are quiet, and one look tells so, in place of one at each connection. No order
        // is drawn then either: whether it is quiet depends on the daemons alone, and so on the
        // seed.
        if self.is_still || self.is_quiet()? {
            return Ok(());
        }
        self.accept()?;
        let mut order: Vec<usize> = (0..self.links.len()).collect();
        self.draw.shuffle(&mut order);
        for &place in &order {
            if !self.is_still {
                self.turn(place)?;
            }
        }
        self.links.retain(|link| !link.is_over);
        self.listen_again()
    }

    /// Whoever waits for a lock may have it now that others have moved.
    pub fn listen_again(&mut self) -> anyhow::Result<()> {
        let mut has_moved = !self.is_still;
        while has_moved {
            has_moved = false;
            for place in 0..self.links.len() {
                if self.links[place].is_waiting() && self.listen(place, 0)? {
                    has_moved = true;
                }
            }
        }
        self.links.retain(|link| !link.is_over);
        Ok(())
    }

    /// Cuts every connection; without `is_away` they may come again.
    pub fn cut_all(&mut self) -> anyhow::Result<()> {
        for place in 0..self.links.len() {
            self.end(place)?;
        }
        self.links.retain(|link| !link.is_over);
        Ok(())
    }

    /// Ends the server's process behind one connection, as an administrator does.
    pub fn terminate_one(&mut self) -> anyhow::Result<()> {
        if self.links.is_empty() {
            return Ok(());
        }
        let place = self.draw.index(self.links.len());
        let link = &mut self.links[place];
        let mut pool = self.backends.0.borrow_mut();
        match link.backend.take() {
            Some(backend) => pool.terminate(backend)?,
            // Between two transactions it has none; a free one goes in its place.
            None => pool.end_one()?,
        }
        drop(pool);
        self.end(place)?;
        self.links.retain(|link| !link.is_over);
        Ok(())
    }

    fn is_quiet(&self) -> anyhow::Result<bool> {
        let has_work = |link: &Link| link.is_waiting() || !link.to_give.is_empty();
        if self.links.iter().any(has_work) {
            return Ok(false);
        }
        let mut files = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        let clients = self.links.iter().map(|link| link.client.as_fd());
        files.extend(clients.map(|client| PollFd::new(client, PollFlags::POLLIN)));
        Ok(poll(&mut files, PollTimeout::ZERO)? == 0)
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            let client = match self.listener.accept() {
                Ok((client, _)) => client,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            // Taken and dropped at once, which to a client is a server that is not there.
            if self.is_away {
                continue;
            }
            // This side alone. The server is waited for, and so is the end of its process; a daemon
            // cannot be, since it moves only once this is done.
            client.set_nonblocking(true)?;
            self.links.push(Link::new(client));
        }
    }

    /// One connection's turn: what is due is given, and one request is taken.
    fn turn(&mut self, place: usize) -> anyhow::Result<()> {
        let step = self.step;
        let stops_at_begin = self.is_still_at_begin
            && (0..self.links.len()).all(|other| other == place || self.links[other].is_at_rest());
        let link = &mut self.links[place];
        if link.is_over {
            return Ok(());
        }
        if !link.take_words()? {
            return self.end(place);
        }
        if link.is_waiting() {
            return Ok(());
        }
        if !link.to_give.is_empty() {
            if link.given_at <= step && !link.give()? {
                return self.end(place);
            }
            return Ok(());
        }
        let Some(request) = wire::request(&link.asked, link.hello.is_none()) else {
            return Ok(());
        };
        if stops_at_begin && request.is_begin {
            self.is_still_at_begin = false;
            self.is_still = true;
            self.say(place, "its BEGIN is on its way");
            return Ok(());
        }
        // Only here: a cut waits until somebody commits, or it would mostly hit nothing.
        let cut = request.is_commit.then(|| self.ambush(place)).flatten();
        if cut == Some(Cut::Before) {
            self.say(place, "the connection breaks before its COMMIT");
            return self.end(place);
        }
        let link = &mut self.links[place];
        let bytes: Vec<u8> = link.asked.drain(..request.bytes).collect();
        self.ask(place, request, &bytes)?;
        match cut {
            // The process has ended with its answer: no connection is left to break.
            Some(_) if self.links[place].is_over => Ok(()),
            Some(Cut::After) => {
                self.say(place, "the connection breaks after its COMMIT");
                self.end(place)
            }
            Some(Cut::Killed) => {
                self.say(place, "whoever asked for its COMMIT is killed after it");
                self.kills = true;
                self.end(place)
            }
            Some(Cut::Before) | None => Ok(()),
        }
    }

    /// The fault that waits for this connection's COMMIT.
    fn ambush(&mut self, place: usize) -> Option<Cut> {
        let ends_jobs = self.links[place].ends_jobs;
        let laid = &mut self.backends.0.borrow_mut().ambushes;
        let fits = laid.iter().position(|laid| ends_jobs || !laid.of_an_end)?;
        laid.remove(fits).map(|ambush| ambush.cut)
    }

    /// Gives a request to the server, if it has to be asked.
    fn ask(&mut self, place: usize, request: Request, bytes: &[u8]) -> anyhow::Result<()> {
        let backends = self.backends.clone();
        let mut pool = backends.0.borrow_mut();
        let link = &mut self.links[place];
        let Some(hello) = &link.hello else {
            let hello = Hello::read(bytes);
            let (number, welcome) = pool.greet(&hello)?;
            (link.number, link.hello, link.to_give) = (number, Some(hello), welcome);
            drop(pool);
            return self.answered(place);
        };
        if request.is_goodbye {
            drop(pool);
            return self.end(place);
        }
        // With a process it would hear so from that. Without one it looks idle, and only this tells
        // it.
        if pool.was_ended(&hello.application, link.number) && link.backend.is_none() {
            link.to_give = wire::last_words();
            link.give()?;
            link.is_over = true;
            return Ok(());
        }
        self.requests += 1;
        if link.backend.is_none() && is_known(bytes, &link.names, &pool.statements, link.status) {
            let mut none = Default::default();
            let statements = &mut pool.statements;
            let exchange = Exchange::new(bytes, &mut link.names, statements, &none, link.status);
            link.to_give = exchange.answer(&[], statements, &mut none);
            drop(pool);
            return self.answered(place);
        }
        let mut backend = match link.backend.take() {
            Some(backend) => backend,
            None => pool.lend(hello)?,
        };
        let known = &backend.prepared;
        let names = &mut link.names;
        let exchange = Exchange::new(bytes, names, &mut pool.statements, known, link.status);
        link.is_marked |= exchange.nature.marks_session;
        link.ends_jobs |= exchange.nature.ends_jobs;
        if exchange.nature.ends_others {
            // Kept until it is answered: only then have they ended, and whoever holds none can be
            // told.
            link.ends_others = bytes.to_owned();
        }
        if exchange.request.is_empty() {
            let prepared = &mut backend.prepared;
            link.to_give = exchange.answer(&[], &mut pool.statements, prepared);
            link.backend = Some(backend);
            drop(pool);
            return self.answered(place);
        }
        match backend.stream.write_all(&exchange.request) {
            // A successor has ended the server's process behind it. What that said last is still to be read.
            Err(error) if has_left(&error) => {}
            written => written?,
        }
        link.backend = Some(backend);
        link.exchange = Some(exchange);
        link.answer.clear();
        link.scanned = 0;
        drop(pool);
        self.listen(place, LISTEN_MS)?;
        Ok(())
    }

    /// Listens for an answer, at first for so many milliseconds. False: the statement waits for a lock.
    fn listen(&mut self, place: usize, mut patience: u16) -> anyhow::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let mut listens = 0;
        let backends = self.backends.clone();
        loop {
            let link = &mut self.links[place];
            let Some(backend) = &mut link.backend else {
                return Ok(true);
            };
            let mut files = [PollFd::new(backend.stream.as_fd(), PollFlags::POLLIN)];
            if poll(&mut files, PollTimeout::from(patience))? == 0 {
                patience = LISTEN_MS;
                listens += 1;
                // Asked of Postgres and not read from the clock: how long a statement works is the
                // machine's, and would make another world of the same seed.
                if backends.0.borrow_mut().is_blocked(backend.pid)? {
                    self.lock_waits += 1;
                    return Ok(false);
                }
                if listens > LISTENS_MAX {
                    bail!("Postgres does not answer");
                }
                continue;
            }
            let count = match backend.stream.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
                Err(error) => return Err(error.into()),
            };
            if count == 0 {
                // Its last words, then the end.
                (link.exchange, link.backend) = (None, None);
                link.to_give = std::mem::take(&mut link.answer);
                link.give()?;
                link.is_over = true;
                return Ok(true);
            }
            link.answer.extend_from_slice(&buffer[..count]);
            let answer = wire::answer(&link.answer, &mut link.scanned);
            if answer.is_whole {
                let mut pool = backends.0.borrow_mut();
                if let Some(exchange) = link.exchange.take() {
                    let statements = &mut pool.statements;
                    let prepared = &mut backend.prepared;
                    link.to_give = exchange.answer(&link.answer, statements, prepared);
                }
                link.status = answer.status;
                let request = std::mem::take(&mut link.ends_others);
                // Only between transactions: until then its locks and what it has not stored are
                // this client's.
                if link.status == IDLE {
                    link.ends_jobs = false;
                    if !link.is_marked
                        && let Some(backend) = link.backend.take()
                    {
                        pool.give_back(backend);
                    }
                }
                if !request.is_empty() {
                    pool.note_ended(&request)?;
                }
                drop(pool);
                self.answered(place)?;
                return Ok(true);
            }
        }
    }

    /// An answer is there: it is given at once, or later.
    fn answered(&mut self, place: usize) -> anyhow::Result<()> {
        let late = match self.slowness {
            0 => 0,
            most => self.draw.between(1, most),
        };
        let link = &mut self.links[place];
        link.given_at = self.step + late;
        if late == 0 && !link.give()? {
            self.end(place)?;
        }
        Ok(())
    }

    /// Ends a connection on both sides. What it had begun is rolled back, and its locks are free, before this
    /// comes back.
    fn end(&mut self, place: usize) -> anyhow::Result<()> {
        let link = &mut self.links[place];
        if link.is_over {
            return Ok(());
        }
        let _ = link.client.shutdown(Shutdown::Both);
        link.is_over = true;
        let (is_waiting, is_idle) = (link.is_waiting(), link.status == IDLE);
        let Some(mut backend) = link.backend.take() else {
            return Ok(());
        };
        let mut pool = self.backends.0.borrow_mut();
        if is_waiting {
            // It would go on waiting for its lock, and use it.
            pool.terminate(backend)
        } else if link.is_marked {
            drop(pool);
            backend.dismiss()
        } else {
            // One that a successor has ended meanwhile is nobody's: it is dropped here.
            if is_idle || backend.roll_back() {
                pool.give_back(backend);
            }
            Ok(())
        }
    }

    fn say(&self, place: usize, what: &str) {
        let number = self.links[place].number;
        self.timeline.say("postgres", format!("{number}: {what}"));
    }
}

impl Link {
    fn new(client: UnixStream) -> Self {
        Self {
            number: 0,
            client,
            hello: None,
            names: Names::new(),
            backend: None,
            is_marked: false,
            ends_jobs: false,
            status: IDLE,
            asked: Vec::new(),
            exchange: None,
            ends_others: Vec::new(),
            answer: Vec::new(),
            scanned: 0,
            given_at: 0,
            to_give: Vec::new(),
            is_over: false,
        }
    }

    /// The server has a request and has not answered.
    fn is_waiting(&self) -> bool {
        self.exchange.is_some()
    }

    /// It is in no transaction.
    fn is_at_rest(&self) -> bool {
        self.is_over || self.status == IDLE && !self.is_waiting()
    }

    /// Reads what the client says. False: it has left.
    fn take_words(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.client.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => self.asked.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives as much of the answer as the client's socket takes. False: it has left.
    fn give(&mut self) -> io::Result<bool> {
        while !self.to_give.is_empty() {
            match self.client.write(&self.to_give) {
                Ok(count) => drop(self.to_give.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if has_left(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Whether the other end of a connection is gone.
fn has_left(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
    )
}
