//! What keeper, helper and warden say to each other over one socket: a request with descriptors, an order with
//! descriptors, and words as lines of JSON the other way.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::process::inside::Inside;

/// How a request begins; another version of the worker's would begin otherwise.
const MAGIC: [u8; 4] = *b"MQC1";
/// Descriptors that one message may bring.
const DESCRIPTORS_MAX: usize = 16;
/// An order holds a command line and an environment, of which the kernel takes 2 MiB at most.
const ORDER_MAX_BYTES: u32 = 16 * 1024 * 1024;

/// What the other side tells the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// The helper does not do it.
    Refused(String),
    /// The warden waits for its order.
    Ready,
    Started(i32),
    NotStarted(String),
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// Nothing runs any more, as far as the warden sees.
    Buried,
    /// The worker can read what is left.
    Tidied,
    /// What the child is at, for who asked ([`LOOK`]). None: it is gone.
    Inside(Option<Inside>),
}

/// What the keeper tells the warden while the child runs, a byte each.
pub(super) const TERMINATE: u8 = b'T';
pub(super) const KILL: u8 = b'K';
pub(super) const LOOK: u8 = b'L';
pub(super) const STACKS: u8 = b'S';

/// Asks the helper for a warden that runs as this user.
pub(super) fn ask(socket: &UnixStream, user: u16, with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut request = MAGIC.to_vec();
    request.extend(user.to_be_bytes());
    send(socket, &request, with)
}

/// The other end of [`ask`].
pub(super) fn asked(socket: &UnixStream) -> io::Result<(u16, Vec<OwnedFd>)> {
    let mut request = [0; 6];
    let with = receive(socket, &mut request)?;
    let [m0, m1, m2, m3, u0, u1] = request;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(wrong("a request of another version"));
    }
    Ok((u16::from_be_bytes([u0, u1]), with))
}

/// Gives the warden its order.
pub(super) fn order<T: Serialize>(
    socket: &UnixStream,
    order: &T,
    with: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(order)?;
    let length = u32::try_from(text.len()).ok();
    let length = length.filter(|length| *length <= ORDER_MAX_BYTES);
    let length = length.ok_or_else(|| wrong("an order that is too long"))?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(text);
    send(socket, &bytes, with)
}

/// The other end of [`order`].
pub(super) fn ordered<T: DeserializeOwned>(socket: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let with = receive(socket, &mut length)?;
    let length = u32::from_be_bytes(length);
    if length > ORDER_MAX_BYTES {
        return Err(wrong("an order that is too long"));
    }
    let mut text = Vec::new();
    let got = socket.take(length.into()).read_to_end(&mut text)?;
    if u32::try_from(got) != Ok(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((serde_json::from_slice(&text)?, with))
}

/// Tells the keeper. One that is gone needs no word.
pub(super) fn say(mut socket: &UnixStream, word: &Word) -> io::Result<()> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    socket.write_all(&line)
}

fn send(mut socket: &UnixStream, bytes: &[u8], with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = with.len() <= DESCRIPTORS_MAX;
    if !fits || !control.push(SendAncillaryMessage::ScmRights(with)) {
        return Err(wrong("more descriptors than one message takes"));
    }
    // Descriptors go with the first part, however much of the rest does.
    let sent = sendmsg(
        socket.as_fd(),
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    socket.write_all(bytes.get(sent..).unwrap_or_default())
}

fn receive(mut socket: &UnixStream, bytes: &mut [u8]) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        socket.as_fd(),
        &mut [IoSliceMut::new(bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut with = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            with.extend(descriptors);
        }
    }
    // The kernel has closed those that did not fit. The others are no use: what each is for goes by
    // their order and number.
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(wrong("more descriptors than one message takes"));
    }
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    socket.read_exact(bytes.get_mut(got.bytes..).unwrap_or_default())?;
    Ok(with)
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    #[test]
    fn a_request_and_an_order_arrive_with_their_descriptors() {
        let (keeper, other) = pair();
        let file = tempfile::NamedTempFile::new().unwrap();
        ask(&keeper, 7, &[file.as_file().as_fd()]).unwrap();
        let (user, mut with) = asked(&other).unwrap();
        assert_eq!(user, 7);
        let mut came = File::from(with.pop().unwrap());
        came.write_all(b"through").unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), b"through");
        // Longer than a socket takes at once.
        let text = "x".repeat(3_000_000);
        std::thread::scope(|scope| {
            scope.spawn(|| order(&keeper, &text, &[file.as_file().as_fd(); 3]).unwrap());
            let (got, with) = ordered::<String>(&other).unwrap();
            assert_eq!((got, with.len()), (text.clone(), 3));
        });
    }

    #[test]
    fn nonsense_is_no_request_and_no_order() {
        for nonsense in [&b"MQC2\0\0"[..], b"\0\0\0\0\0\0"] {
            let (mut keeper, other) = pair();
            keeper.write_all(nonsense).unwrap();
            assert!(asked(&other).is_err());
        }
        for short in [&b""[..], b"MQC1\0"] {
            let (mut keeper, other) = pair();
            keeper.write_all(short).unwrap();
            drop(keeper);
            assert!(asked(&other).is_err());
        }
        for bad in [
            &b"\xff\xff\xff\xff"[..],
            b"\0\0\0\x02{]",
            b"\0\0\0\x09\"abc\"",
        ] {
            let (mut keeper, other) = pair();
            keeper.write_all(bad).unwrap();
            drop(keeper);
            assert!(ordered::<String>(&other).is_err());
        }
    }

    #[test]
    fn too_many_descriptors_are_refused_before_anything_is_sent() {
        let (keeper, _other) = pair();
        let file = tempfile::tempfile().unwrap();
        let many = [file.as_fd(); DESCRIPTORS_MAX + 1];
        assert!(ask(&keeper, 1, &many).is_err());
    }
}
