//! Postgres's wire protocol, as far as a relay must understand it: where a request and an answer end.

/// Bytes of a message's length field and, but for the first one, its type.
const LENGTH_BYTES: usize = 4;

/// What a client asks for at once: everything up to the point where it waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) bytes: usize,
    pub(crate) is_begin: bool,
    pub(crate) is_commit: bool,
    /// The client says goodbye, and no answer comes.
    pub(crate) is_goodbye: bool,
}

/// The first whole request in `bytes`. The first of a connection has no type.
pub(crate) fn request(bytes: &[u8], is_first: bool) -> Option<Request> {
    if is_first {
        let size = length(bytes, 0)?;
        return (bytes.len() >= size).then_some(Request {
            bytes: size,
            is_begin: false,
            is_commit: false,
            is_goodbye: false,
        });
    }
    let mut at = 0;
    loop {
        let message = message(bytes, at)?;
        let (kind, end) = (bytes[at], at + message);
        // Sync, Query, Terminate: after these a client waits. Parse, Bind and the others go with
        // the Sync that follows them.
        if matches!(kind, b'S' | b'Q' | b'X') {
            let is_query = |word: &[u8]| kind == b'Q' && bytes[at + 5..end].starts_with(word);
            return Some(Request {
                bytes: end,
                // sqlx sends both as simple queries. A prepared COMMIT would be cut by no fault.
                is_begin: is_query(b"BEGIN"),
                is_commit: is_query(b"COMMIT"),
                is_goodbye: kind == b'X',
            });
        }
        at = end;
    }
}

/// What an answer told, as far as it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Answer {
    /// The server waits for the next request.
    pub(crate) is_whole: bool,
    /// The number of the server's process, where it said so.
    pub(crate) pid: Option<i32>,
    /// What became of the client's transaction, as of the last message.
    pub(crate) status: u8,
}

/// Reads on in an answer from `scanned`, and moves that.
pub(crate) fn answer(bytes: &[u8], scanned: &mut usize) -> Answer {
    let mut found = Answer::default();
    while let Some(size) = message(bytes, *scanned) {
        let body = *scanned + 1 + LENGTH_BYTES;
        match bytes[*scanned] {
            // ReadyForQuery ends each answer; BackendKeyData ("K") comes once, after the login.
            b'Z' => {
                found.is_whole = true;
                found.status = bytes[body];
            }
            b'K' => {
                let pid = bytes.get(body..body + 4).and_then(|b| b.try_into().ok());
                found.pid = pid.map(i32::from_be_bytes);
            }
            _ => {}
        }
        *scanned += size;
    }
    found
}

/// The whole messages in `bytes`, each with its type and what stands behind its length.
pub(crate) fn messages(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let size = message(bytes, at)?;
        let whole = &bytes[at..at + size];
        at += size;
        Some((whole[0], &whole[1 + LENGTH_BYTES..]))
    })
}

/// A message of this type.
pub(crate) fn message_of(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &framed(body)].concat()
}

/// A text up to its end, and what follows.
pub(crate) fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[]),
    }
}

/// The first column of each row in an answer, as text.
pub(crate) fn first_values(bytes: &[u8]) -> Vec<String> {
    let rows = messages(bytes).filter(|(kind, _)| *kind == b'D');
    // The number of columns, the length of the first, and that.
    rows.filter_map(|(_, body)| {
        let size = length(body, 2)?;
        let value = body.get(6..6 + size)?;
        Some(String::from_utf8_lossy(value).into_owned())
    })
    .collect()
}

/// What the server says that went wrong, if it does.
pub(crate) fn error(bytes: &[u8]) -> Option<String> {
    let (_, body) = messages(bytes).find(|(kind, _)| *kind == b'E')?;
    Some(String::from_utf8_lossy(body).replace('\0', " "))
}

/// The last words of a server's process that an administrator has ended.
pub(crate) fn last_words() -> Vec<u8> {
    let fields = "SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0";
    message_of(b'E', fields.as_bytes())
}

/// How a client introduces itself: by pairs of names and values, of which its own name is one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Hello {
    pub(crate) application: String,
    /// All others.
    pub(crate) rest: Vec<(String, String)>,
}

impl Hello {
    /// Of the first packet of a connection.
    pub(crate) fn read(packet: &[u8]) -> Self {
        let mut hello = Self::default();
        // Behind its length and the version of the protocol.
        let mut left = packet.get(8..).unwrap_or_default();
        while !left.is_empty() && left[0] != 0 {
            let (name, after) = split(left);
            let (value, after) = split(after);
            left = after;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            match name {
                b"application_name" => hello.application = text(value),
                _ => hello.rest.push((text(name), text(value))),
            }
        }
        hello
    }

    /// The packet again.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut body = vec![0, 3, 0, 0];
        let own = [("application_name".to_owned(), self.application.clone())];
        for (name, value) in self.rest.iter().chain(&own) {
            for text in [name, value] {
                body.extend_from_slice(text.as_bytes());
                body.push(0);
            }
        }
        body.push(0);
        framed(&body)
    }
}

/// A simple query.
pub(crate) fn query(text: &str) -> Vec<u8> {
    let mut body = text.as_bytes().to_vec();
    body.push(0);
    message_of(b'Q', &body)
}

/// A client's goodbye.
pub(crate) const GOODBYE: [u8; 5] = [b'X', 0, 0, 0, 4];

fn framed(body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len() + LENGTH_BYTES).unwrap_or(u32::MAX);
    let mut packet = size.to_be_bytes().to_vec();
    packet.extend_from_slice(body);
    packet
}

/// Bytes of the message at `at`, if all of it is there.
fn message(bytes: &[u8], at: usize) -> Option<usize> {
    let size = 1 + length(bytes, at + 1)?;
    (bytes.len() >= at + size).then_some(size)
}

fn length(bytes: &[u8], at: usize) -> Option<usize> {
    let field: [u8; LENGTH_BYTES] = bytes.get(at..at + LENGTH_BYTES)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(field)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_where_the_client_waits() {
        let hello = Hello {
            application: "a".into(),
            rest: vec![("user".into(), "marquee".into())],
        };
        let start = hello.packet();
        assert_eq!(Hello::read(&start), hello);
        assert_eq!(request(&start, true).unwrap().bytes, start.len());
        assert_eq!(request(&start[..7], true), None);
        let commit = query("COMMIT");
        let found = request(&commit, false).unwrap();
        assert!(found.is_commit && found.bytes == commit.len());
        assert!(!request(&query("SELECT 'COMMIT'"), false).unwrap().is_commit);
        // Parse, Sync, and half of the next message.
        let two = [&[b'P', 0, 0, 0, 5, 0][..], &[b'S', 0, 0, 0, 4, b'P', 0]].concat();
        assert_eq!(request(&two, false).unwrap().bytes, 11);
        assert_eq!(request(&two[..9], false), None);
        assert!(request(&GOODBYE, false).unwrap().is_goodbye);
    }

    #[test]
    fn an_answer_is_whole_when_the_server_is_ready() {
        let mut bytes = vec![b'K', 0, 0, 0, 12, 0, 0, 1, 2, 0, 0, 0, 0];
        let mut scanned = 0;
        let found = answer(&bytes, &mut scanned);
        assert!(!found.is_whole && found.pid == Some(258));
        bytes.extend([b'D', 0, 0, 0, 12, 0, 1, 0, 0, 0, 2, b'4', b'2', b'Z', 0, 0]);
        assert!(!answer(&bytes, &mut scanned).is_whole);
        bytes.extend([0, 5, b'I']);
        assert!(answer(&bytes, &mut scanned).is_whole);
        assert_eq!(first_values(&bytes), ["42"]);
    }
}
