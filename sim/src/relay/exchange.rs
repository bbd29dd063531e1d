//! What of a client's request goes to a server's process, and what of its answer to the client.
//!
//! Statements have the client's names on one side and ours on the other, so that a process may serve a connection after
//! another one: what it has prepared already is not prepared anew, and what it has not is prepared before it is used.

use std::collections::{BTreeMap, BTreeSet};

use crate::wire;

/// A statement's number among those of a world.
pub(super) type Number = usize;

const PARSE_COMPLETE: [u8; 5] = [b'1', 0, 0, 0, 4];
const CLOSE_COMPLETE: [u8; 5] = [b'3', 0, 0, 0, 4];

/// In no transaction.
pub(super) const IDLE: u8 = b'I';
/// In one in which a statement has failed.
const BROKEN: u8 = b'E';

/// What matters of a statement beside its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Nature {
    /// It leaves something behind in the session: a lock, a setting, a subscription.
    pub(super) marks_session: bool,
    /// It ends other sessions.
    pub(super) ends_others: bool,
    /// It ends jobs: their rows leave the open ones.
    pub(super) ends_jobs: bool,
}

impl Nature {
    fn of(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        // By its words, and a few too many are no harm: a connection that counts as marked keeps
        // its process, and is served the same.
        let has = |word: &str| text.contains(word);
        Self {
            marks_session: has("pg_advisory_lock(")
                || has("pg_try_advisory_lock(")
                || has("LISTEN ")
                || has("set_config(") && has(", false)")
                || text.starts_with("SET ") && !text.starts_with("SET LOCAL "),
            ends_others: has("pg_terminate_backend("),
            ends_jobs: has("DELETE FROM open_jobs"),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            marks_session: self.marks_session || other.marks_session,
            ends_others: self.ends_others || other.ends_others,
            ends_jobs: self.ends_jobs || other.ends_jobs,
        }
    }
}

#[derive(Debug)]
struct Statement {
    /// Its text and the types of its parameters, as a client sends them.
    body: Vec<u8>,
    /// The server's answer to the question what it takes and gives.
    described: Option<Vec<u8>>,
    nature: Nature,
}

/// All statements that a world's clients have prepared.
#[derive(Debug, Default)]
pub(super) struct Statements {
    numbers: BTreeMap<Vec<u8>, Number>,
    all: Vec<Statement>,
}

impl Statements {
    fn number(&mut self, body: &[u8]) -> Number {
        if let Some(number) = self.numbers.get(body) {
            return *number;
        }
        let number = self.all.len();
        self.all.push(Statement {
            body: body.to_owned(),
            described: None,
            nature: Nature::of(body),
        });
        self.numbers.insert(body.to_owned(), number);
        number
    }

    fn described(&self, number: Number) -> Option<&Vec<u8>> {
        self.all[number].described.as_ref()
    }

    fn prepare(&self, number: Number) -> Vec<u8> {
        let body = [name(number).as_slice(), &self.all[number].body].concat();
        wire::message_of(b'P', &body)
    }
}

/// A statement's name on the server's side, with its end.
fn name(number: Number) -> Vec<u8> {
    format!("m{number}\0").into_bytes()
}

/// A client's names of statements.
pub(super) type Names = BTreeMap<Vec<u8>, Number>;

/// A part of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// What the server says to a message of this kind, which was about this statement.
    Asked(u8, Option<Number>),
    /// That it has prepared a statement, which the client has not asked for now.
    Ours(Number),
    /// Known without it.
    Known(Vec<u8>),
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Exchange {
    /// For the server; empty: it need not be asked.
    pub(super) request: Vec<u8>,
    pub(super) nature: Nature,
    parts: Vec<Part>,
}

/// Whether a request can be answered without the server: it prepares, describes and forgets statements that are known.
pub(super) fn is_known(bytes: &[u8], names: &Names, statements: &Statements, status: u8) -> bool {
    let mut parsed: BTreeMap<&[u8], Option<Number>> = BTreeMap::new();
    let is_described = |number: Option<Number>| {
        number.is_some_and(|number| statements.described(number).is_some())
    };
    // In a transaction that has failed the server refuses these, too, and the client is to hear so.
    status != BROKEN
        && wire::messages(bytes).all(|(kind, body)| match (kind, body.first()) {
            (b'S', _) => true,
            (b'C', Some(b'S')) => true,
            (b'P', _) => {
                let (name, rest) = wire::split(body);
                let number = statements.numbers.get(rest).copied();
                parsed.insert(name, number);
                is_described(number)
            }
            (b'D', Some(b'S')) => {
                let (name, _) = wire::split(&body[1..]);
                let known = parsed.get(name).copied();
                is_described(known.unwrap_or_else(|| names.get(name).copied()))
            }
            _ => false,
        })
}

impl Exchange {
    /// What to ask a process that has prepared these statements, on behalf of a client in a transaction of this status.
    pub(super) fn new(
        bytes: &[u8],
        names: &mut Names,
        statements: &mut Statements,
        prepared: &BTreeSet<Number>,
        status: u8,
    ) -> Self {
        let mut exchange = Self {
            request: Vec::new(),
            nature: Nature::default(),
            parts: Vec::new(),
        };
        let mut fresh = BTreeSet::new();
        for (kind, body) in wire::messages(bytes) {
            match (kind, body.first()) {
                (b'P', _) => {
                    let (name, rest) = wire::split(body);
                    let number = statements.number(rest);
                    names.insert(name.to_owned(), number);
                    let is_there = prepared.contains(&number) || fresh.contains(&number);
                    if status == BROKEN {
                        // It is refused, and so leaves no name behind.
                        exchange.ask(kind, body, None);
                    } else if is_there || statements.described(number).is_some() {
                        exchange.parts.push(Part::Known(PARSE_COMPLETE.to_vec()));
                    } else {
                        fresh.insert(number);
                        exchange.request.extend(statements.prepare(number));
                        exchange.parts.push(Part::Asked(kind, Some(number)));
                    }
                }
                (b'D', Some(b'S')) => {
                    let (client, _) = wire::split(&body[1..]);
                    let number = names.get(client).copied();
                    let known = number.and_then(|number| statements.described(number));
                    match (number, known) {
                        (Some(_), Some(known)) if status != BROKEN => {
                            exchange.parts.push(Part::Known(known.clone()));
                        }
                        (Some(number), _) => {
                            exchange.prepare(number, statements, prepared, &mut fresh);
                            let body = [b"S".as_slice(), &name(number)].concat();
                            exchange.ask(kind, &body, Some(number));
                        }
                        (None, _) => exchange.ask(kind, body, None),
                    }
                }
                (b'B', _) => {
                    let (portal, rest) = wire::split(body);
                    let (client, values) = wire::split(rest);
                    // A name that nobody prepared is handed on as it is: the refusal is the
                    // server's to say.
                    let Some(number) = names.get(client).copied() else {
                        exchange.ask(kind, body, None);
                        continue;
                    };
                    exchange.nature = exchange.nature.and(statements.all[number].nature);
                    exchange.prepare(number, statements, prepared, &mut fresh);
                    let body = [portal, b"\0", &name(number), values].concat();
                    exchange.ask(kind, &body, None);
                }
                (b'C', Some(b'S')) => {
                    let (client, _) = wire::split(&body[1..]);
                    // The process keeps it: another connection may have the same statement.
                    names.remove(client);
                    exchange.parts.push(Part::Known(CLOSE_COMPLETE.to_vec()));
                }
                // Nothing before it is for the server, so its end is known here, and the client's
                // transaction is as it was.
                (b'S', _) if exchange.request.is_empty() => {
                    let ready = wire::message_of(b'Z', &[status]);
                    exchange.parts.push(Part::Known(ready));
                }
                (b'Q', _) => {
                    exchange.nature = exchange.nature.and(Nature::of(body));
                    exchange.ask(kind, body, None);
                }
                _ => exchange.ask(kind, body, None),
            }
        }
        exchange
    }

    fn ask(&mut self, kind: u8, body: &[u8], about: Option<Number>) {
        self.request.extend(wire::message_of(kind, body));
        self.parts.push(Part::Asked(kind, about));
    }

    fn prepare(
        &mut self,
        number: Number,
        statements: &Statements,
        prepared: &BTreeSet<Number>,
        fresh: &mut BTreeSet<Number>,
    ) {
        if !prepared.contains(&number) && fresh.insert(number) {
            self.request.extend(statements.prepare(number));
            self.parts.push(Part::Ours(number));
        }
    }

    /// What the client is told once the server has answered this. Notes what that has prepared and described.
    pub(super) fn answer(
        self,
        bytes: &[u8],
        statements: &mut Statements,
        prepared: &mut BTreeSet<Number>,
    ) -> Vec<u8> {
        let mut told = Vec::new();
        let mut parts = self.parts.into_iter().peekable();
        let mut described = Vec::new();
        let known = |parts: &mut std::iter::Peekable<std::vec::IntoIter<Part>>,
                     told: &mut Vec<u8>| {
            while let Some(Part::Known(bytes)) =
                parts.next_if(|part| matches!(part, Part::Known(_)))
            {
                told.extend(bytes);
            }
        };
        known(&mut parts, &mut told);
        for (kind, body) in wire::messages(bytes) {
            // Nothing that was asked after a statement that failed is answered.
            if kind == b'E' {
                while parts.next_if(|part| !is_last(part)).is_some() {}
            }
            let is_ours = matches!(parts.peek(), Some(Part::Ours(_))) && kind == b'1';
            let whole = wire::message_of(kind, body);
            if matches!(parts.peek(), Some(Part::Asked(b'D', Some(_))))
                && matches!(kind, b't' | b'T' | b'n')
            {
                described.extend_from_slice(&whole);
            }
            if !is_ours {
                told.extend(whole);
            }
            if !parts.peek().is_some_and(|part| ends(part, kind)) {
                continue;
            }
            match parts.next() {
                Some(Part::Asked(b'P', Some(number)) | Part::Ours(number)) => {
                    prepared.insert(number);
                }
                Some(Part::Asked(b'D', Some(number))) => {
                    statements.all[number].described = Some(std::mem::take(&mut described));
                }
                Some(Part::Asked(..) | Part::Known(_)) | None => {}
            }
            known(&mut parts, &mut told);
        }
        told
    }
}

/// The message for whose answer the client waits.
fn is_last(part: &Part) -> bool {
    matches!(part, Part::Asked(b'S' | b'Q', _))
}

/// Whether a message of the server's is the last of what it says to a part.
fn ends(part: &Part, kind: u8) -> bool {
    match part {
        Part::Ours(_) | Part::Asked(b'P', _) => kind == b'1',
        Part::Asked(b'B', _) => kind == b'2',
        Part::Asked(b'D', _) => matches!(kind, b'T' | b'n'),
        Part::Asked(b'E', _) => matches!(kind, b'C' | b'I' | b's'),
        Part::Asked(b'C', _) => kind == b'3',
        Part::Asked(b'S' | b'Q', _) => kind == b'Z',
        Part::Asked(..) | Part::Known(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: [u8; 5] = [b'S', 0, 0, 0, 4];

    /// A client that prepares a statement, and one that uses it.
    fn prepare(name: &str, sql: &str) -> Vec<u8> {
        let parse = wire::message_of(b'P', format!("{name}\0{sql}\0\0\0").as_bytes());
        let describe = wire::message_of(b'D', format!("S{name}\0").as_bytes());
        [parse.as_slice(), &describe, &SYNC].concat()
    }

    fn run(name: &str) -> Vec<u8> {
        let bind = wire::message_of(b'B', format!("\0{name}\0values").as_bytes());
        let execute = wire::message_of(b'E', &[0; 5]);
        [bind.as_slice(), &execute, &SYNC].concat()
    }

    fn say(kinds: &[u8]) -> Vec<u8> {
        kinds
            .iter()
            .flat_map(|kind| wire::message_of(*kind, b"I"))
            .collect()
    }

    fn kinds(bytes: &[u8]) -> Vec<u8> {
        wire::messages(bytes).map(|(kind, _)| kind).collect()
    }

    #[test]
    fn what_is_known_is_not_asked_again_and_what_a_process_lacks_is_prepared_for_it() {
        let (mut names, mut statements) = (Names::new(), Statements::default());
        let (mut first, mut second) = (BTreeSet::new(), BTreeSet::new());
        let bytes = prepare("a", "SELECT 1");
        assert!(!is_known(&bytes, &names, &statements, IDLE));
        let exchange = Exchange::new(&bytes, &mut names, &mut statements, &first, IDLE);
        assert_eq!(kinds(&exchange.request), b"PDS");
        let told = exchange.answer(&say(b"1tTZ"), &mut statements, &mut first);
        assert_eq!(kinds(&told), b"1tTZ");

        // Another connection, by another name: nobody is asked.
        let mut others = Names::new();
        let bytes = prepare("b", "SELECT 1");
        assert!(is_known(&bytes, &others, &statements, IDLE));
        let exchange = Exchange::new(&bytes, &mut others, &mut statements, &second, b'T');
        assert!(exchange.request.is_empty());
        let told = exchange.answer(&[], &mut statements, &mut second);
        assert_eq!(kinds(&told), b"1tTZ");
        assert_eq!(told.last(), Some(&b'T'), "its own transaction goes on");

        // A process that has not prepared it does so first, unheard; the next time it need not.
        for expected in [b"PBES".as_slice(), b"BES"] {
            let exchange = Exchange::new(&run("b"), &mut others, &mut statements, &second, IDLE);
            assert_eq!(kinds(&exchange.request), expected);
            let answer: &[u8] = if expected.len() == 4 {
                b"12DCZ"
            } else {
                b"2DCZ"
            };
            let told = exchange.answer(&say(answer), &mut statements, &mut second);
            assert_eq!(kinds(&told), b"2DCZ");
        }
        let text = String::from_utf8_lossy(
            &Exchange::new(&run("b"), &mut others, &mut statements, &second, IDLE).request,
        )
        .into_owned();
        assert!(text.contains("\0m0\0values"), "{text:?}");
    }

    #[test]
    fn an_error_ends_the_answer_and_nothing_counts_as_prepared_for_it() {
        let (mut names, mut statements) = (Names::new(), Statements::default());
        let mut prepared = BTreeSet::new();
        let bytes = prepare("a", "SELECT nonsense");
        let exchange = Exchange::new(&bytes, &mut names, &mut statements, &prepared, IDLE);
        let told = exchange.answer(&say(b"EZ"), &mut statements, &mut prepared);
        assert_eq!(
            (kinds(&told).as_slice(), prepared.len()),
            (b"EZ".as_slice(), 0)
        );
        // In a transaction that failed nothing is answered from memory.
        let good = prepare("a", "SELECT 1");
        let exchange = Exchange::new(&good, &mut names, &mut statements, &prepared, IDLE);
        exchange.answer(&say(b"1tTZ"), &mut statements, &mut prepared);
        assert!(!is_known(&good, &names, &statements, BROKEN));
        let exchange = Exchange::new(&good, &mut names, &mut statements, &prepared, BROKEN);
        assert_eq!(kinds(&exchange.request), b"PDS");
        let told = exchange.answer(&say(b"EZ"), &mut statements, &mut prepared);
        assert_eq!(kinds(&told), b"EZ");
    }

    #[test]
    fn what_marks_a_session_is_told_from_what_ends_with_its_transaction() {
        let nature = |text: &str| Nature::of(text.as_bytes());
        assert!(nature("SELECT pg_try_advisory_lock($1)").marks_session);
        assert!(!nature("SELECT pg_try_advisory_xact_lock($1)").marks_session);
        assert!(nature("SELECT set_config('statement_timeout', $1, false)").marks_session);
        assert!(!nature("SELECT set_config('lock_timeout', $1, true)").marks_session);
        assert!(nature("SET jit = off").marks_session);
        assert!(!nature("UPDATE jobs SET state = 'open'").marks_session);
        assert!(nature("WITH ended AS (DELETE FROM open_jobs WHERE true) SELECT 1").ends_jobs);
        assert!(nature("SELECT pg_terminate_backend(pid)").ends_others);
    }
}
