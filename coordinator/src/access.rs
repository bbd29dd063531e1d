//! Who may ask, where no client shows a certificate: over loopback, as over a unix socket of mode 0600.
//!
//! The kernel says which account made the socket at the other end (`sockets`), so there is nothing to find, to copy
//! or to leak, and every client is served as it is: the command line, workers, older versions, `grpcurl`, a browser.
//! In are this coordinator's own account, root (who could take the database anyhow), the accounts and the group of
//! the settings, and nobody else. With certificates of somebody else's authority (`tls.client_ca` beside `tls.cert`)
//! TLS lets nobody in without one, and nothing here is asked. With the coordinator's own authority TLS lets everybody
//! in, since a worker that joins has no certificate yet: here a certificate decides where one was shown, and the
//! account where none was.
//! What a browser sends has passed `web::gate` before.

mod sockets;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use futures::StreamExt as _;
use marquee_domain::ids::WorkerId;
use marquee_proto::error::ErrorCode;
use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};
use rustls::pki_types::CertificateDer;
use tonic::codegen::http::Request;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};

use crate::certificate::{self, Ours};
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
    rule: Arc<RwLock<Arc<Rule>>>,
    /// Certificates are of the coordinator's own authority, and need not be shown.
    is_own_authority: bool,
    connections: Arc<Mutex<HashMap<SocketAddr, Who>>>,
    /// Names of authorities that were believed when this process began, and are not any more.
    disbelieved: Arc<RwLock<Vec<Vec<u8>>>>,
}

/// Who was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// Whoever may ask for anything.
    Person,
    /// A worker that joined: whether it still is one is to be looked up.
    Worker(WorkerId),
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
    #[error(
        "this coordinator does not know who asks: show a certificate of its authority, or ask on its own host (docs/errors/MQ0375.md)"
    )]
    Unshown,
    #[error(
        "the certificate that was shown names nobody that this version knows; was it made by a later one?"
    )]
    UnknownName,
    #[error(
        "the certificate that was shown is of an authority that this cluster believes no more (\"marquee admin ca rotate\"); join again with a token for this name"
    )]
    Disbelieved,
}

impl Refused {
    /// The code of its answer.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Account { .. } | Self::Unknown => ErrorCode::NotAllowed,
            Self::Unshown | Self::UnknownName | Self::Disbelieved => ErrorCode::NotIdentified,
        }
    }
}

impl Access {
    #[must_use]
    pub fn new(rule: Rule) -> Self {
        Self {
            rule: Arc::new(RwLock::new(Arc::new(rule))),
            is_own_authority: false,
            connections: Arc::default(),
            disbelieved: Arc::default(),
        }
    }

    /// Authorities with these names, as certificates have them, are believed no more: also on connections that stand,
    /// which TLS looked at when it still believed them.
    pub fn disbelieve(&self, subjects: Vec<Vec<u8>>) {
        if !subjects.is_empty() {
            let all = &self.disbelieved;
            let mut all = all.write().unwrap_or_else(PoisonError::into_inner);
            // None is ever taken out: a name of ours holds the start of its key's digest, and each
            // rotation makes a key of its own.
            all.extend(subjects);
        }
    }

    /// Whether the certificate of a request is of such an authority.
    fn is_disbelieved<T>(&self, request: &Request<T>) -> bool {
        let all = &self.disbelieved;
        let all = all.read().unwrap_or_else(PoisonError::into_inner);
        // Nearly always: nothing is read then.
        if all.is_empty() {
            return false;
        }
        let issuer = shown_der(request).and_then(|der| {
            let (issuer, _) = marquee_proto::certificate::issuer_and_subject(&der)?;
            Some(issuer.to_vec())
        });
        issuer.is_some_and(|issuer| all.contains(&issuer))
    }

    /// With certificates of the coordinator's own authority.
    #[must_use]
    pub fn with_own_authority(self) -> Self {
        Self {
            is_own_authority: true,
            ..self
        }
    }

    /// Whether workers are known by certificates of the coordinator's own authority.
    #[must_use]
    pub fn is_own_authority(&self) -> bool {
        self.is_own_authority
    }

    /// Whether accounts are to be told apart, and this process cannot: in a user namespace of its own, such as
    /// systemd's `PrivateUsers=`, the kernel shows it every other account as one.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        *self.rule() != Rule::Everybody && sees_own_accounts_alone()
    }

    fn rule(&self) -> Arc<Rule> {
        let rule = self.rule.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&rule)
    }

    /// Another rule from now on, for connections that stand too: who was taken out of it is out at his next request.
    pub fn change(&self, rule: Rule) {
        let rule = Arc::new(rule);
        *self.rule.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&rule);
        for who in self.connections().values_mut() {
            if let Who::In(account) | Who::Out(account) = who {
                let account = account.clone();
                *who = rule.judge(account);
            }
        }
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
        // Where everybody may ask, accounts are looked up over loopback alone: users may be known by theirs,
        // and of another host the kernel knows none.
        let rule = self.rule();
        // Canonical, since a socket for both families has 127.0.0.1 in its IPv6 form.
        if *rule == Rule::Everybody && !remote.ip().to_canonical().is_loopback() {
            return connection;
        }
        let who = tokio::task::spawn_blocking(move || rule.who(local, remote)).await;
        let who = match who.unwrap_or(Who::Unknown) {
            // By the rule as it is now: it may have changed since.
            Who::In(account) | Who::Out(account) => self.rule().judge(account),
            who @ (Who::Hidden | Who::Unknown) => who,
        };
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
            // An account that cannot be told is noted as nothing at all: it must not be taken for the owner's.
            Some(Who::Hidden | Who::Unknown) | None => return,
        };
        request.extensions_mut().insert(peer);
    }

    /// Lets a request in, and notes whose it is.
    pub fn admit<T>(&self, request: &mut Request<T>) -> Result<Party, Refused> {
        // A certificate goes before the account: a worker on this host is that worker, whatever account it
        // runs under.
        if self.is_own_authority
            && let Some(name) = shown(request)
        {
            if self.is_disbelieved(request) {
                return Err(Refused::Disbelieved);
            }
            return match certificate::ours(&name) {
                Some(Ours::Worker(worker)) => Ok(Party::Worker(worker)),
                Some(Ours::Unknown) => Err(Refused::UnknownName),
                // Of an authority that the settings name beside our own.
                None => Ok(Party::Person),
            };
        }
        let remote = remote(request);
        let is_here = remote.is_none_or(|remote| remote.ip().to_canonical().is_loopback());
        let rule = self.rule();
        let Rule::Accounts { accounts, group } = &*rule else {
            // "open" is for this host alone, where TLS asks nobody else for a certificate.
            return if self.is_own_authority && !is_here {
                Err(Refused::Unshown)
            } else {
                Ok(Party::Person)
            };
        };
        let who = remote.and_then(|remote| self.connections().get(&remote).cloned());
        match who.unwrap_or(Who::Unknown) {
            Who::In(account) => {
                request.extensions_mut().insert(account);
                Ok(Party::Person)
            }
            // This process cannot tell accounts apart, as it said at its start: to refuse them would shut out
            // everybody on its own host.
            Who::Hidden => Ok(Party::Person),
            Who::Unknown if self.is_own_authority && !is_here => Err(Refused::Unshown),
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
        // Our own account and root are shown as themselves even there.
        if uid != geteuid() && !uid.is_root() && sees_own_accounts_alone() {
            return Who::Hidden;
        }
        let account = Account {
            uid: uid.as_raw(),
            name: name_of(uid),
        };
        let who = self.judge(account);
        if let Who::Out(account) = &who {
            tracing::warn!(%account, uid = account.uid, "a connection of an account that may not use this coordinator");
        }
        who
    }

    fn judge(&self, account: Account) -> Who {
        if self.lets_in(Uid::from_raw(account.uid), &account.name) {
            Who::In(account)
        } else {
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

/// The name in the certificate that came with a request.
fn shown<T>(request: &Request<T>) -> Option<String> {
    shown_der(request).map(|own| certificate::name(&own))
}

/// The certificate that came with a request, as it is encoded.
fn shown_der<T>(request: &Request<T>) -> Option<CertificateDer<'static>> {
    let tls = request
        .extensions()
        .get::<TlsConnectInfo<TcpConnectInfo>>()?;
    tls.peer_certs()?.first().cloned()
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
    fn with_an_own_authority_open_means_open_to_this_host() {
        let from = |address: &str| {
            let mut request = Request::new(());
            request.extensions_mut().insert(TcpConnectInfo {
                local_addr: None,
                remote_addr: Some(address.parse().unwrap()),
            });
            request
        };
        let open = Access::new(Rule::Everybody).with_own_authority();
        for here in ["127.0.0.1:4", "[::1]:4", "[::ffff:127.0.0.1]:4"] {
            assert_eq!(open.admit(&mut from(here)), Ok(Party::Person), "{here}");
        }
        let far = open.admit(&mut from("10.0.0.7:4"));
        assert_eq!(far, Err(Refused::Unshown));
        assert_eq!(Refused::Unshown.code(), ErrorCode::NotIdentified);
    }

    #[test]
    fn another_rule_counts_for_connections_that_stand() {
        let named = |accounts: &[&str]| Rule::Accounts {
            accounts: accounts.iter().map(|name| (*name).to_owned()).collect(),
            group: None,
        };
        let access = Access::new(named(&["alice"]));
        let at: SocketAddr = "127.0.0.1:4".parse().unwrap();
        let alice = Account {
            uid: 4_000_000,
            name: "alice".into(),
        };
        access.connections().insert(at, access.rule().judge(alice));
        let ask = || {
            let mut request = Request::new(());
            request.extensions_mut().insert(TcpConnectInfo {
                local_addr: None,
                remote_addr: Some(at),
            });
            access.admit(&mut request)
        };
        assert_eq!(ask(), Ok(Party::Person));
        access.change(named(&["bob"]));
        assert!(matches!(ask(), Err(Refused::Account { .. })));
        access.change(named(&["bob", "alice"]));
        assert_eq!(ask(), Ok(Party::Person));
        access.change(Rule::Everybody);
        assert_eq!(ask(), Ok(Party::Person));
    }

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
