//! Who may ask, where no client shows a certificate: over loopback, as over a unix socket of mode 0600.
//!
//! The kernel says which account made the socket at the other end (`sockets`), so there is nothing to find, to copy
//! or to leak, and every client is served as it is: the command line, workers, older versions, `grpcurl`, a browser.
//! In are this coordinator's own account, root (who could take the database anyhow), the accounts and the group of
//! the settings, and nobody else. With `tls.client_ca` the certificate decides, and nothing here is asked.
//! What a browser sends has passed `web::gate` before.

mod sockets;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};
use tonic::codegen::http::Request;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};

use crate::env::{Connection, Listener};

/// Connections whose other end is looked up at once.
const LOOKUPS_AT_ONCE: usize = 16;

/// Who may ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Rule {
    /// Whoever can connect: TLS has asked for a certificate, or the settings say so.
    #[default]
    Everybody,
    /// Own account and root, and these.
    Accounts {
        accounts: Vec<String>,
        group: Option<Group>,
    },
}

/// A group of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub id: u32,
}

/// The account at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub name: String,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Whose connection a request over loopback came by, as the kernel says. Put on it by [`Access::mark`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub account: Account,
    /// The rule lets this account in.
    pub is_let_in: bool,
    /// It is the coordinator's own, or root.
    pub is_owner: bool,
}

/// What is known of whoever connected.
#[derive(Debug, Clone)]
enum Who {
    In(Account),
    Out(Account),
    /// This process sees no other accounts than its own.
    Hidden,
    Unknown,
}

/// Keeps the rule, and who is at the other end of each connection. A cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Access {
    rule: Arc<Rule>,
    connections: Arc<Mutex<HashMap<SocketAddr, Who>>>,
}

/// A connection's place in the list of those whose other end is known.
#[derive(Debug)]
struct Known {
    access: Access,
    remote: SocketAddr,
}

impl Drop for Known {
    fn drop(&mut self) {
        self.access.connections().remove(&self.remote);
    }
}

/// Why a request is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "account \"{account}\" (uid {}) may not use this coordinator, which is open to account \"{own}\"{others} and to root; whoever runs it can add others: access.group or access.accounts in coordinator.toml", account.uid
    )]
    Account {
        account: Account,
        own: String,
        others: String,
    },
    #[error(
        "this coordinator cannot tell whose connection this is; connect again, or use a certificate ([tls] with client_ca)"
    )]
    Unknown,
}

impl Access {
    #[must_use]
    pub fn new(rule: Rule) -> Self {
        Self {
            rule: Arc::new(rule),
            connections: Arc::default(),
        }
    }

    /// Whether accounts are to be told apart, and this process cannot: in a user namespace of its own, such as
    /// systemd's `PrivateUsers=`, the kernel shows it every other account as one.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        *self.rule != Rule::Everybody && sees_own_accounts_alone()
    }

    /// Looks up the other end of each connection before it is served, where the kernel can know it.
    #[must_use]
    pub fn watch(&self, listener: Listener) -> Listener {
        let access = self.clone();
        let connections = listener
            .connections
            .map(move |connection| {
                let access = access.clone();
                async move {
                    match connection {
                        Ok(connection) => Ok(access.look_up(connection).await),
                        Err(error) => Err(error),
                    }
                }
            })
            .buffer_unordered(LOOKUPS_AT_ONCE);
        Listener {
            address: listener.address,
            connections: connections.boxed(),
        }
    }

    async fn look_up(&self, connection: Connection) -> Connection {
        let (Some(local), Some(remote)) = (connection.local_addr(), connection.remote_addr())
        else {
            return connection;
        };
        if *self.rule == Rule::Everybody && !remote.ip().to_canonical().is_loopback() {
            return connection;
        }
        let rule = Arc::clone(&self.rule);
        let who = tokio::task::spawn_blocking(move || rule.who(local, remote)).await;
        let who = who.unwrap_or(Who::Unknown);
        self.connections().insert(remote, who);
        let access = self.clone();
        // Gone before the connection is closed: once it is, its addresses may be another's.
        connection.holding(Known { access, remote })
    }

    /// Notes on a request whose connection it came by, where that is known.
    pub fn mark<T>(&self, request: &mut Request<T>) {
        let Some(remote) = remote(request) else {
            return;
        };
        let peer = match self.connections().get(&remote) {
            Some(Who::In(account)) => Peer {
                is_owner: is_owner(Uid::from_raw(account.uid)),
                account: account.clone(),
                is_let_in: true,
            },
            Some(Who::Out(account)) => Peer {
                account: account.clone(),
                is_let_in: false,
                is_owner: false,
            },
            Some(Who::Hidden | Who::Unknown) | None => return,
        };
        request.extensions_mut().insert(peer);
    }

    /// Lets a request in, and notes whose it is.
    pub fn admit<T>(&self, request: &mut Request<T>) -> Result<(), Refused> {
        let Rule::Accounts { accounts, group } = &*self.rule else {
            return Ok(());
        };
        let remote = remote(request);
        let who = remote.and_then(|remote| self.connections().get(&remote).cloned());
        match who.unwrap_or(Who::Unknown) {
            Who::In(account) => {
                request.extensions_mut().insert(account);
                Ok(())
            }
            Who::Hidden => Ok(()),
            Who::Unknown => Err(Refused::Unknown),
            Who::Out(account) => {
                let mut others: Vec<String> =
                    accounts.iter().map(|name| format!(", {name:?}")).collect();
                others.extend(
                    group
                        .iter()
                        .map(|group| format!(", group {:?}", group.name)),
                );
                Err(Refused::Account {
                    account,
                    own: name_of(geteuid()),
                    others: others.concat(),
                })
            }
        }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<SocketAddr, Who>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rule {
    fn who(&self, local: SocketAddr, remote: SocketAddr) -> Who {
        let uid = match sockets::owner(local, remote) {
            Ok(Some(uid)) => Uid::from_raw(uid),
            // It has gone already, or the kernel does not say.
            Ok(None) => return Who::Unknown,
            Err(error) => {
                tracing::warn!(%error, "the kernel's list of connections cannot be read; clients are refused");
                return Who::Unknown;
            }
        };
        if uid != geteuid() && !uid.is_root() && sees_own_accounts_alone() {
            return Who::Hidden;
        }
        let account = Account {
            uid: uid.as_raw(),
            name: name_of(uid),
        };
        if self.lets_in(uid, &account.name) {
            Who::In(account)
        } else {
            tracing::warn!(%account, uid = account.uid, "a connection of an account that may not use this coordinator");
            Who::Out(account)
        }
    }

    fn lets_in(&self, uid: Uid, name: &str) -> bool {
        let Self::Accounts { accounts, group } = self else {
            return true;
        };
        is_owner(uid)
            || accounts.iter().any(|account| account == name)
            || group.as_ref().is_some_and(|group| is_member(uid, group.id))
    }
}

/// Whether an account may do everything here in any case: it could take the database.
fn is_owner(uid: Uid) -> bool {
    uid == geteuid() || uid.is_root()
}

/// Whether an account is in a group, as the host's files or directory have it now.
fn is_member(uid: Uid, group: u32) -> bool {
    let Ok(Some(user)) = User::from_uid(uid) else {
        return false;
    };
    let Ok(name) = std::ffi::CString::new(user.name) else {
        return false;
    };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&Gid::from_raw(group)))
}

fn name_of(uid: Uid) -> String {
    let user = User::from_uid(uid).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

fn sees_own_accounts_alone() -> bool {
    // Outside any such namespace: all 2^32 - 1 ids, each as itself.
    let whole = |map: String| map.split_whitespace().eq(["0", "0", "4294967295"]);
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !whole(map))
}

/// The address that a request comes from.
pub fn remote<T>(request: &Request<T>) -> Option<SocketAddr> {
    let extensions = request.extensions();
    let plain = extensions.get::<TcpConnectInfo>();
    let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
    plain
        .or_else(|| tls.map(TlsConnectInfo::get_ref))
        .and_then(TcpConnectInfo::remote_addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_account_root_and_the_named_ones_are_in() {
        let rule = Rule::Accounts {
            accounts: vec!["marquee-worker".into()],
            group: Some(Group {
                name: "nogroup".into(),
                id: 65_534,
            }),
        };
        let stranger = Uid::from_raw(4_000_000);
        assert!(rule.lets_in(geteuid(), "me") && rule.lets_in(Uid::from_raw(0), "root"));
        assert!(rule.lets_in(stranger, "marquee-worker"));
        assert!(!rule.lets_in(stranger, "alice") && !rule.lets_in(stranger, ""));
        // The group of the account that every host has.
        if let Ok(Some(nobody)) = User::from_name("nobody") {
            let in_group = |id| {
                let name = "g".to_owned();
                let rule = Rule::Accounts {
                    accounts: Vec::new(),
                    group: Some(Group { name, id }),
                };
                rule.lets_in(nobody.uid, "nobody")
            };
            assert!(in_group(nobody.gid.as_raw()) && !in_group(nobody.gid.as_raw() - 7));
        }
        assert!(Rule::Everybody.lets_in(stranger, ""));
    }
}
