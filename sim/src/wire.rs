//! Postgres's wire protocol, as far as a relay must understand it: where a request and an answer end.

/// Bytes of a message's length field and, but for the first one, its type.
const LENGTH_BYTES: usize = 4;

/// What a client asks for at once: everything up to the point where it waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) bytes: usize,
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
            is_commit: false,
            is_goodbye: false,
        });
    }
    let mut at = 0;
    loop {
        let message = message(bytes, at)?;
        let (kind, end) = (bytes[at], at + message);
        if matches!(kind, b'S' | b'Q' | b'X') {
            let is_commit = kind == b'Q' && bytes[at + 5..end].starts_with(b"COMMIT");
            return Some(Request {
                bytes: end,
                is_commit,
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
}

/// Reads on in an answer from `scanned`, and moves that.
pub(crate) fn answer(bytes: &[u8], scanned: &mut usize) -> Answer {
    let mut found = Answer::default();
    while let Some(size) = message(bytes, *scanned) {
        let body = *scanned + 1 + LENGTH_BYTES;
        match bytes[*scanned] {
            b'Z' => found.is_whole = true,
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

/// The first column of the first row in an answer, as text.
pub(crate) fn first_value(bytes: &[u8]) -> Option<String> {
    let mut at = 0;
    while let Some(size) = message(bytes, at) {
        if bytes[at] == b'D' {
            // Type, length, number of columns, length of the first.
            let value = bytes.get(at + 11..at + size)?;
            return Some(String::from_utf8_lossy(value).into_owned());
        }
        at += size;
    }
    None
}

/// The first packet of a connection.
pub(crate) fn startup(user: &str, database: &str) -> Vec<u8> {
    let mut body = vec![0, 3, 0, 0];
    for text in ["user", user, "database", database, ""] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    framed(&body)
}

/// A simple query.
pub(crate) fn query(text: &str) -> Vec<u8> {
    let mut body = text.as_bytes().to_vec();
    body.push(0);
    let mut packet = vec![b'Q'];
    packet.extend(framed(&body));
    packet
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
        let start = startup("marquee", "sim");
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
        assert_eq!(first_value(&bytes).as_deref(), Some("42"));
    }
}
