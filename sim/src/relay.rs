//! Between the daemons and Postgres: a relay that moves only while the simulation does not.
//!
//! After each step it takes each connection in a drawn order, gives one whole request to the real server, waits for
//! the answer, and lays it where the daemon finds it in its next step. So a round trip costs one step, whatever the
//! machine does, and the order in which statements reach the server is the seed's.
//!
//! A statement that waits for a lock has no answer: it is left alone, and asked for again after others have moved.
//! That it waits is what Postgres itself says (`pg_blocking_pids`).

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::draw::Draw;
use crate::timeline::Timeline;
use crate::wire;

/// The name that Postgres gives to a socket in its folder.
const SOCKET: &str = ".s.PGSQL.5432";
/// How long to listen for an answer before Postgres is asked whether the statement waits for a lock.
const LISTEN_MS: u16 = 5;
/// So many times nothing is heard before the server counts as broken: two minutes.
const LISTENS_MAX: u32 = 24_000;

/// What is done to the next COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It never reaches the server: nothing is stored.
    Before,
    /// It is stored, and nobody hears so.
    After,
}

/// The relay.
#[derive(Debug)]
pub struct Relay {
    listener: UnixListener,
    server: PathBuf,
    admin: Admin,
    links: Vec<Link>,
    draw: Draw,
    timeline: Timeline,
    /// Faults that wait for a COMMIT.
    pub cuts: VecDeque<Cut>,
    /// The server cannot be reached.
    pub is_away: bool,
    /// The server stands still: requests and answers stay where they are.
    pub is_still: bool,
    /// Answers are kept back by this many steps.
    pub slowness: u64,
    step: u64,
    next: u64,
    /// Requests that were answered, and looks that found one waiting for a lock.
    pub requests: u64,
    pub lock_waits: u64,
}

/// One connection of a daemon.
#[derive(Debug)]
struct Link {
    number: u64,
    client: UnixStream,
    server: UnixStream,
    asked: Vec<u8>,
    answer: Vec<u8>,
    scanned: usize,
    is_started: bool,
    /// The server has a request and has not answered.
    is_waiting: bool,
    /// From which step on the answer may be given.
    given_at: u64,
    /// The answer, or what is left of it.
    to_give: Vec<u8>,
    pid: i32,
    is_over: bool,
}

impl Relay {
    /// Listens in `folder` for whoever wants to reach the server whose socket lies in `server`.
    pub fn new(
        folder: &Path,
        server: &Path,
        draw: Draw,
        timeline: Timeline,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let listener = UnixListener::bind(folder.join(SOCKET))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            server: server.join(SOCKET),
            admin: Admin::connect(&server.join(SOCKET))?,
            links: Vec::new(),
            draw,
            timeline,
            cuts: VecDeque::new(),
            is_away: false,
            is_still: false,
            slowness: 0,
            step: 0,
            next: 0,
            requests: 0,
            lock_waits: 0,
        })
    }

    /// Moves everything that can move, until the next step.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        self.step += 1;
        if self.is_still || self.is_quiet()? {
            return Ok(());
        }
        self.accept()?;
        let mut order: Vec<usize> = (0..self.links.len()).collect();
        self.draw.shuffle(&mut order);
        for &place in &order {
            self.turn(place)?;
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
                if self.links[place].is_waiting && self.listen(place, 0)? {
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
        self.end(place)?;
        self.links.retain(|link| !link.is_over);
        Ok(())
    }

    fn is_quiet(&self) -> anyhow::Result<bool> {
        let has_work = |link: &Link| link.is_waiting || !link.to_give.is_empty();
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
            if self.is_away {
                continue;
            }
            client.set_nonblocking(true)?;
            let number = self.next;
            self.next += 1;
            self.links.push(Link {
                number,
                client,
                server: UnixStream::connect(&self.server).context("the server is gone")?,
                asked: Vec::new(),
                answer: Vec::new(),
                scanned: 0,
                is_started: false,
                is_waiting: false,
                given_at: 0,
                to_give: Vec::new(),
                pid: 0,
                is_over: false,
            });
        }
    }

    /// One connection's turn: what is due is given, and one request is taken.
    fn turn(&mut self, place: usize) -> anyhow::Result<()> {
        let step = self.step;
        let link = &mut self.links[place];
        if link.is_over {
            return Ok(());
        }
        if !link.take_words()? {
            return self.end(place);
        }
        if link.is_waiting {
            return Ok(());
        }
        if !link.to_give.is_empty() {
            if link.given_at <= step && !link.give()? {
                return self.end(place);
            }
            return Ok(());
        }
        let Some(request) = wire::request(&link.asked, !link.is_started) else {
            return Ok(());
        };
        let cut = if request.is_commit {
            self.cuts.pop_front()
        } else {
            None
        };
        if cut == Some(Cut::Before) {
            self.say(place, "the connection breaks before its COMMIT");
            return self.end(place);
        }
        let link = &mut self.links[place];
        link.is_started = true;
        let bytes: Vec<u8> = link.asked.drain(..request.bytes).collect();
        match link.server.write_all(&bytes) {
            // A successor has ended the server's process behind it. What that said last is still to be read.
            Err(error) if has_left(&error) => {}
            written => written?,
        }
        if request.is_goodbye {
            link.drain_server()?;
            link.is_over = true;
            return Ok(());
        }
        link.is_waiting = true;
        link.answer.clear();
        link.scanned = 0;
        self.requests += 1;
        self.listen(place, LISTEN_MS)?;
        if cut == Some(Cut::After) && !self.links[place].is_over {
            self.say(place, "the connection breaks after its COMMIT");
            return self.end(place);
        }
        Ok(())
    }

    /// Listens for an answer, at first for so many milliseconds. False: the statement waits for a lock.
    fn listen(&mut self, place: usize, mut patience: u16) -> anyhow::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let mut listens = 0;
        loop {
            let link = &mut self.links[place];
            let mut files = [PollFd::new(link.server.as_fd(), PollFlags::POLLIN)];
            if poll(&mut files, PollTimeout::from(patience))? == 0 {
                patience = LISTEN_MS;
                listens += 1;
                if link.pid != 0 && self.admin.is_blocked(link.pid)? {
                    self.lock_waits += 1;
                    return Ok(false);
                }
                if listens > LISTENS_MAX {
                    bail!("Postgres does not answer");
                }
                continue;
            }
            let count = match link.server.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
                Err(error) => return Err(error.into()),
            };
            if count == 0 {
                // Its last words, then the end.
                link.is_waiting = false;
                link.to_give = std::mem::take(&mut link.answer);
                link.give()?;
                link.is_over = true;
                return Ok(true);
            }
            link.answer.extend_from_slice(&buffer[..count]);
            let answer = wire::answer(&link.answer, &mut link.scanned);
            link.pid = answer.pid.unwrap_or(link.pid);
            if answer.is_whole {
                link.is_waiting = false;
                link.to_give = std::mem::take(&mut link.answer);
                link.given_at = self.step + self.slowness;
                if self.slowness == 0 && !link.give()? {
                    self.end(place)?;
                }
                return Ok(true);
            }
        }
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
        if link.is_waiting {
            // It would go on waiting for its lock, and use it.
            self.admin.terminate(link.pid)?;
        } else {
            let _ = link.server.write_all(&wire::GOODBYE);
        }
        link.drain_server()?;
        Ok(())
    }

    fn say(&self, place: usize, what: &str) {
        let number = self.links[place].number;
        self.timeline.say("postgres", format!("{number}: {what}"));
    }
}

impl Link {
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

    /// Waits until the server's process has gone, and with it all that it held.
    fn drain_server(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.server.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether the other end of a connection is gone.
fn has_left(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
    )
}

/// A connection of the relay's own, to ask about others.
#[derive(Debug)]
struct Admin(UnixStream);

impl Admin {
    fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let mut admin = Self(stream);
        let hello = wire::startup("marquee", "postgres");
        admin.0.write_all(&hello)?;
        admin.answer()?;
        Ok(admin)
    }

    fn is_blocked(&mut self, pid: i32) -> anyhow::Result<bool> {
        let blockers = self.ask(&format!("SELECT cardinality(pg_blocking_pids({pid}))"))?;
        Ok(blockers.is_some_and(|count| count != "0"))
    }

    fn terminate(&mut self, pid: i32) -> anyhow::Result<()> {
        self.ask(&format!("SELECT pg_terminate_backend({pid})"))?;
        Ok(())
    }

    fn ask(&mut self, query: &str) -> anyhow::Result<Option<String>> {
        self.0.write_all(&wire::query(query))?;
        Ok(wire::first_value(&self.answer()?))
    }

    fn answer(&mut self) -> anyhow::Result<Vec<u8>> {
        let (mut bytes, mut scanned) = (Vec::new(), 0);
        let mut buffer = [0; 8 * 1024];
        loop {
            let count = self.0.read(&mut buffer)?;
            if count == 0 {
                bail!("Postgres has closed the relay's own connection");
            }
            bytes.extend_from_slice(&buffer[..count]);
            if wire::answer(&bytes, &mut scanned).is_whole {
                return Ok(bytes);
            }
        }
    }
}
