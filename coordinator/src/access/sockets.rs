//! Whose socket is at the other end of a connection over loopback: the kernel's own list says so.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// A socket of IPv6 may speak with one of IPv4, so that both lists are looked through.
const LISTS: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
/// The list is read in pieces while others connect and leave, so that a line may be missed.
const LOOKS: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(5);
/// The state of a connection that stands, as the list writes it. Of one that is being closed the kernel keeps no
/// account, and writes 0, which is root's.
const ESTABLISHED: &str = "01";

/// The uid of the account that made the socket at `remote`, which is connected with `local`. None: there is none any
/// more, or it is on another host. Reads the list of all connections: not for async threads.
pub(super) fn owner(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    for look in 0..LOOKS {
        if look > 0 {
            std::thread::sleep(BETWEEN);
        }
        for (n, list) in LISTS.iter().enumerate() {
            let list = match fs::read_to_string(list) {
                Ok(list) => list,
                // A host without IPv6 has no second list.
                Err(error) if n > 0 && error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let found = list
                .lines()
                .skip(1)
                .find_map(|line| owner_in(line, local, remote));
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

/// The uid of a line, if it is that of the other end: what is remote for us is local for it.
fn owner_in(line: &str, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace();
    let its_own = fields.nth(1)?;
    let its_peer = fields.next()?;
    if fields.next()? != ESTABLISHED {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok()?;
    // Behind the time-out. A socket that no process has any more has none.
    let inode: u64 = fields.nth(1)?.parse().ok()?;
    let is_it =
        inode != 0 && is_same(address(its_own)?, remote) && is_same(address(its_peer)?, local);
    is_it.then_some(uid)
}

fn is_same(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical()
}

/// An address as the list writes it: words of 32 bits in the order of this machine, in hexadecimal.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |text: &str| Some(u32::from_str_radix(text, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(ip)?)),
        32 => {
            let mut bytes = [0; 16];
            for (n, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(ip.get(n * 8..n * 8 + 8)?)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use nix::unistd::{Uid, geteuid, setfsuid};

    use super::*;

    fn connected(at: &str, dial: &str) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind(at).ok()?;
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((dial, port)).ok()?;
        let (served, _) = listener.accept().unwrap();
        Some((client, served))
    }

    fn owner_of(served: &TcpStream) -> Option<u32> {
        owner(served.local_addr().unwrap(), served.peer_addr().unwrap()).unwrap()
    }

    #[test]
    fn the_owner_of_the_other_end_is_found_in_both_families_and_only_while_it_stands() {
        for (at, dial) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("127.0.0.1:0", "::ffff:127.0.0.1"),
        ] {
            let Some((client, served)) = connected(at, dial) else {
                eprintln!("skipped: {at} cannot be dialled as {dial} here");
                continue;
            };
            assert_eq!(owner_of(&served), Some(geteuid().as_raw()), "{at}");
            // The kernel writes root's number for what is being closed.
            drop(client);
            assert_eq!(owner_of(&served), None, "{at}");
        }
    }

    #[test]
    fn another_account_is_told_from_ours() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can make a socket as somebody else");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let other = std::thread::spawn(move || {
            // This changes the account of this thread alone.
            setfsuid(Uid::from_raw(4_000_001));
            TcpStream::connect(at).unwrap()
        });
        let (served, _) = listener.accept().unwrap();
        let _client = other.join().unwrap();
        assert_eq!(owner_of(&served), Some(4_000_001));
    }

    #[test]
    fn lines_that_are_no_connections_of_ours_are_passed_over() {
        let (local, remote) = ("127.0.0.1:7700", "127.0.0.1:40112");
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        let line = |own: &str, peer: &str, state: &str, inode: u32| {
            let line = format!(
                "  1: {own} {peer} {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0 20 4"
            );
            owner_in(&line, local, remote)
        };
        let (ours, its) = ("0100007F:1E14", "0100007F:9CB0");
        if cfg!(target_endian = "little") {
            assert_eq!(line(its, ours, "01", 7), Some(1000));
        }
        // Our own end, another port, one that is being closed, one that nobody holds, and nonsense.
        assert_eq!(line(ours, its, "01", 7), None);
        assert_eq!(line("0100007F:9CB1", ours, "01", 7), None);
        assert_eq!(line(its, ours, "06", 7), None);
        assert_eq!(line(its, ours, "01", 0), None);
        for odd in ["", "x", "0100007F", "é100007F:9CB0", "0100007F:99999"] {
            assert_eq!(line(odd, ours, "01", 7), None);
            assert_eq!(owner_in(odd, local, remote), None);
        }
    }
}
