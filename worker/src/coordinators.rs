//! The coordinators that this worker knows, and which of them it asks: the one that leads, once it is found.
//!
//! The session finds it, since every session begins with a question that only the one that leads answers; transfers
//! follow. Invariant: another address is tried before the same one again, and nobody is asked a second time without a
//! pause.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use marquee_proto::certificate;
use tokio::sync::Notify;
use tonic::transport::{Channel, Endpoint};

use crate::config::Config;
use crate::connect;
use crate::env::Net;
use crate::member::Tls;

/// Coordinators that are remembered: each further one makes finding the one that leads slower.
const KNOWN_MAX: usize = 16;

/// The coordinators of this worker's cluster. A cheap handle.
#[derive(Debug, Clone)]
pub struct Coordinators {
    /// Whether it was dialled with TLS from the start; certificates change, this does not.
    has_tls: bool,
    net: Arc<dyn Net>,
    /// The certificate is another one.
    renewed: Arc<Notify>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    tls: Option<Tls>,
    known: Vec<String>,
    /// One that another has named as the one that leads, and that is not among the known.
    named: Option<String>,
    /// The one to ask.
    at: String,
    /// Those that were asked in vain since the last pause.
    tried: BTreeSet<String>,
    channels: BTreeMap<String, Channel>,
}

impl Coordinators {
    /// Those of the settings, the first first.
    pub(crate) fn new(config: &Config, net: Arc<dyn Net>) -> Result<Self, Unusable> {
        // All of them now, with the operator still there to read it, not on the night when the second one is
        // needed.
        for url in &config.coordinators {
            connect::endpoint_at(url, config.tls.as_ref()).map_err(|error| Unusable {
                url: url.clone(),
                why: connect::with_causes(&error),
            })?;
        }
        Ok(Self {
            has_tls: config.tls.is_some(),
            net,
            renewed: Arc::new(Notify::new()),
            state: Arc::new(Mutex::new(State {
                tls: config.tls.clone(),
                known: config.coordinators.clone(),
                named: None,
                at: config.coordinator.clone(),
                tried: BTreeSet::new(),
                channels: BTreeMap::new(),
            })),
        })
    }

    /// The URL of the one to ask.
    pub(crate) fn current(&self) -> String {
        self.state().at.clone()
    }

    /// How to speak to it.
    pub(crate) fn endpoint(&self, url: &str) -> Result<Endpoint, tonic::transport::Error> {
        connect::endpoint_at(url, self.state().tls.as_ref())
    }

    /// This worker's certificate, as PEM; None: it has none to show.
    pub(crate) fn certificate(&self) -> Option<String> {
        let state = self.state();
        let (own, _) = state.tls.as_ref()?.identity.as_ref()?;
        Some(own.clone())
    }

    /// Why this worker's certificate cannot be shown now, and the way out; None: it can, or it has none.
    pub(crate) fn unusable(&self, now: DateTime<Utc>, name: &str) -> Option<String> {
        let why = certificate::unusable(&self.certificate()?, now)?;
        let state = self.state();
        let has_joined = state.tls.as_ref().is_some_and(|tls| tls.member.is_some());
        let cure = if has_joined {
            let address = state.at.trim_start_matches("https://");
            format!(
                "join again: on the coordinator's host \"marquee-coordinator token create --name {name} > token\", and here, with the daemon stopped, \"marquee-worker join {address} --token-file token\""
            )
        } else {
            "give this worker a new one (tls.cert and tls.key) and restart it".to_owned()
        };
        Some(format!("{why}; nothing was dialled; {cure}"))
    }

    /// Dials with these certificates from now on. Whoever waits for [`Self::certificate_changed`] hears of it.
    pub(crate) fn renewed(&self, tls: Tls) {
        let mut state = self.state();
        state.tls = Some(tls);
        // An open connection goes on with the certificate that it was made with.
        state.channels.clear();
        drop(state);
        self.renewed.notify_one();
    }

    /// Believes other authorities from now on, and shows the same certificate: connections that stand go on.
    pub(crate) fn believe(&self, authorities: String) {
        let mut state = self.state();
        if let Some(tls) = &mut state.tls {
            tls.ca = authorities;
        }
        // One of these may be made anew at any time, by what it was made with.
        state.channels.clear();
    }

    /// Dials with these certificates from now on, where they are others than before. Whether they are; never where this
    /// worker began without TLS, or is to go on without.
    pub(crate) fn take_certificates(&self, tls: Option<Tls>) -> bool {
        let Some(tls) = tls.filter(|tls| self.state().tls.as_ref().is_some_and(|now| now != tls))
        else {
            return false;
        };
        self.renewed(tls);
        true
    }

    /// Remembers coordinators that another one names, behind those that are known. All that are known then, where that
    /// is news.
    pub(crate) fn learn(&self, urls: impl IntoIterator<Item = String>) -> Option<Vec<String>> {
        let new: Vec<String> = urls
            .into_iter()
            .filter(|url| self.may_follow(url))
            .collect();
        self.state().learn(new)
    }

    /// Comes back when the certificate is another one.
    pub(crate) async fn certificate_changed(&self) {
        self.renewed.notified().await;
    }

    /// A channel for files to the one to ask, apart from the session's, so that no heartbeat queues behind them. It
    /// connects when it is used.
    pub(crate) fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let mut state = self.state();
        if let Some(channel) = state.channels.get(&state.at) {
            return Ok(channel.clone());
        }
        let endpoint = connect::endpoint_at(&state.at, state.tls.as_ref())?;
        let channel = self.net.connect_lazily(endpoint);
        let at = state.at.clone();
        // What is not asked any more need not be kept open.
        state.channels.clear();
        state.channels.insert(at, channel.clone());
        Ok(channel)
    }

    /// `url` answers, and leads.
    pub(crate) fn settle(&self) {
        self.state().tried.clear();
    }

    /// The one at `url` was asked in vain; it may have named the one that leads. Whether there is another one to ask
    /// at once; where not, a pause is due.
    pub(crate) fn turn(&self, url: &str, leader: Option<&str>) -> bool {
        let leader = leader.filter(|leader| self.may_follow(leader));
        self.state().turn(url, leader)
    }

    /// An address that somebody else names is dialled as safely as those of the settings, or not at all.
    fn may_follow(&self, url: &str) -> bool {
        let scheme = if self.has_tls { "https://" } else { "http://" };
        url.starts_with(scheme) && self.endpoint(url).is_ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked left an address to ask.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address of the settings that cannot be dialled.
#[derive(Debug, thiserror::Error)]
#[error("coordinator {url:?} cannot be dialled: {why}")]
pub(crate) struct Unusable {
    url: String,
    why: String,
}

impl State {
    fn learn(&mut self, urls: Vec<String>) -> Option<Vec<String>> {
        let before = self.known.len();
        for url in urls {
            if self.known.len() < KNOWN_MAX && !self.known.contains(&url) {
                self.known.push(url);
            }
        }
        (self.known.len() > before).then(|| self.known.clone())
    }

    fn turn(&mut self, url: &str, leader: Option<&str>) -> bool {
        self.tried.insert(url.to_owned());
        if let Some(leader) = leader
            && !self.known.iter().any(|known| known == leader)
        {
            self.named = Some(leader.to_owned());
        }
        let all: Vec<&String> = self.known.iter().chain(&self.named).collect();
        let place = all.iter().position(|known| *known == url).unwrap_or(0);
        // Those behind it first, then from the beginning.
        let following = || all.iter().cycle().skip(place + 1).take(all.len());
        let untried = |url: &str| !self.tried.contains(url);
        let next = leader
            .filter(|leader| untried(leader))
            .or_else(|| following().find(|url| untried(url)).map(|url| url.as_str()));
        let is_another = next.is_some();
        let next = next
            .or(leader)
            .or_else(|| following().next().map(|url| url.as_str()));
        if let Some(next) = next {
            self.at = next.to_owned();
        }
        // All were asked: after the pause that now comes, each of them may be asked again.
        if !is_another {
            self.tried.clear();
        }
        is_another
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(known: &[&str]) -> State {
        State {
            tls: None,
            known: known.iter().map(|url| (*url).to_owned()).collect(),
            named: None,
            at: known[0].to_owned(),
            tried: BTreeSet::new(),
            channels: BTreeMap::new(),
        }
    }

    #[test]
    fn all_are_asked_once_and_then_there_is_a_pause() {
        let mut state = state(&["a", "b", "c"]);
        assert!(state.turn("a", None));
        assert_eq!(state.at, "b");
        assert!(state.turn("b", None));
        assert_eq!(state.at, "c");
        assert!(!state.turn("c", None));
        assert_eq!(state.at, "a");
        assert!(state.turn("a", None), "a new round");
    }

    #[test]
    fn those_that_come_later_are_remembered_behind_the_others_and_not_without_end() {
        let mut state = state(&["a", "b"]);
        let named = |names: &[&str]| names.iter().map(|url| (*url).to_owned()).collect();
        assert_eq!(state.learn(named(&["b", "a"])), None);
        let known = state.learn(named(&["b", "c"])).unwrap();
        assert_eq!(known, ["a", "b", "c"]);
        // One that is away just now, and so is not named, is not forgotten.
        assert_eq!(state.learn(named(&["a"])), None);
        let many = (0..40).map(|number| format!("n{number}")).collect();
        assert_eq!(state.learn(many).unwrap().len(), KNOWN_MAX);
        assert_eq!(state.learn(named(&["z"])), None);
    }

    #[test]
    fn one_alone_is_asked_again_after_each_pause() {
        let mut state = state(&["a"]);
        for _ in 0..3 {
            assert!(!state.turn("a", None));
            assert_eq!(state.at, "a");
        }
    }

    #[test]
    fn the_one_that_is_named_goes_first_whether_it_is_known_or_not() {
        let mut state = state(&["a", "b", "c"]);
        assert!(state.turn("a", Some("c")));
        assert_eq!(state.at, "c");
        // Two that name each other, as in the middle of a take-over, are not asked in circles.
        assert!(state.turn("c", Some("a")));
        assert_eq!(state.at, "b");
        assert!(!state.turn("b", Some("a")));
        assert_eq!(state.at, "a");
        assert!(state.turn("a", Some("d")));
        assert_eq!(state.at, "d");
        assert!(state.turn("d", None));
        assert_eq!(state.at, "b", "those of the settings are not forgotten");
    }
}
