//! Faults on request: rules that make the local server behave as public services sometimes do.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use super::fault::{FaultKind, RetryAfter, Route};
use super::storm::{Plant, Storm};

/// One rule: `ROUTE=KIND[,every=N][,times=T][,retry_after=S|date:S]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultRule {
    pub(crate) route: Route,
    pub(crate) kind: FaultKind,
    /// Hits the films at positions 0, N, 2N, ...
    every: usize,
    /// Hits each film this often, then never again. None: always.
    times: Option<u32>,
    pub(crate) retry_after: RetryAfter,
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "fault {rule:?}: {problem}; write ROUTE=KIND[,every=N][,times=T][,retry_after=S or date:S], with ROUTE one of \
     configuration, genres, movie, changes, discover, export, image and KIND one of 401, 404, 422, 429, 500 to 599, \
     html, empty, truncated, reset, redirect, redirect-loop, endless, slow-body, invalid-id, slow:SECONDS"
)]
pub struct InvalidFault {
    rule: String,
    problem: String,
}

impl FromStr for FaultRule {
    type Err = InvalidFault;

    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        let invalid = |problem: &str| InvalidFault {
            rule: text.to_owned(),
            problem: problem.to_owned(),
        };
        let mut parts = text.split(',');
        let (route, kind) = parts
            .next()
            .and_then(|head| head.split_once('='))
            .ok_or(invalid("there is no ="))?;
        let route = Route::ALL
            .into_iter()
            .find_map(|(word, known)| (word == route).then_some(known))
            .ok_or(invalid("its route is unknown"))?;
        let kind = FaultKind::of_word(kind).ok_or(invalid("its kind is unknown"))?;
        let mut rule = Self {
            route,
            kind,
            every: 1,
            times: None,
            retry_after: RetryAfter::None,
        };
        for part in parts {
            let (name, value) = part.split_once('=').ok_or(invalid("an option has no ="))?;
            match name {
                "every" => {
                    let every = value.parse().ok().filter(|every| *every > 0);
                    rule.every = every.ok_or(invalid("every is not a number above 0"))?;
                }
                "times" => {
                    rule.times = Some(value.parse().map_err(|_| invalid("times is no number"))?);
                }
                "retry_after" => {
                    rule.retry_after = RetryAfter::of_word(value)
                        .ok_or(invalid("retry_after is neither S nor date:S"))?;
                }
                _ => return Err(invalid("it has an unknown option")),
            }
        }
        Ok(rule)
    }
}

impl FaultRule {
    /// The rule that a planted fault is.
    pub(crate) fn planted(route: Route, kind: FaultKind, times: Option<u32>) -> Self {
        Self {
            route,
            kind,
            every: 1,
            times,
            // Half of those who limit say for how long.
            retry_after: if kind == FaultKind::RateLimited && route == Route::Movie {
                RetryAfter::Seconds(0)
            } else {
                RetryAfter::None
            },
        }
    }
}

/// The rule number of what a storm plants.
const PLANTED: usize = usize::MAX;

/// The rules of a server, and how often each has hit each film.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<FaultRule>,
    storm: Option<Storm>,
    hits: Mutex<HashMap<(usize, usize), u32>>,
}

impl Faults {
    pub(crate) fn new(rules: Vec<FaultRule>, storm: Option<Storm>) -> Self {
        Self {
            rules,
            storm,
            hits: Mutex::default(),
        }
    }

    /// The fault that the storm has for this request.
    fn planted(&self, route: Route, position: usize) -> Option<FaultRule> {
        match (self.storm.as_ref()?.plant_at(position)?, route) {
            (Plant::Details(kind, times), Route::Movie)
            | (Plant::Poster(kind, times), Route::Image) => {
                Some(FaultRule::planted(route, kind, times))
            }
            (
                Plant::Details(..)
                | Plant::Poster(..)
                | Plant::Oddity(_)
                | Plant::Twice
                | Plant::Nonsense
                | Plant::WrongFilm,
                _,
            ) => None,
        }
    }

    /// Whether no rule is about this route.
    pub(crate) fn is_free(&self, route: Route) -> bool {
        self.rules.iter().all(|rule| rule.route != route)
    }

    /// The fault that meets this request, if any: the first rule that applies. Requests for no
    /// film have position 0.
    pub(crate) fn meet(&self, route: Route, position: usize) -> Option<FaultRule> {
        let mut hits = self.hits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut strikes = |at: usize, rule: &FaultRule| {
            if rule.route != route || !position.is_multiple_of(rule.every) {
                return false;
            }
            // A rule without an end needs no count, and the table of counts stays small.
            if rule.times.is_none() {
                return true;
            }
            let so_far = hits.entry((at, position)).or_default();
            if rule.times.is_some_and(|times| *so_far >= times) {
                return false;
            }
            *so_far += 1;
            true
        };
        // One lock for the search and the count: of two requests for a film at a time, `times=1`
        // must hit one.
        let rule = self
            .rules
            .iter()
            .enumerate()
            .find(|(at, rule)| strikes(*at, rule));
        if let Some((_, rule)) = rule {
            return Some(rule.clone());
        }
        // The rules that were asked for come before the storm's: a test that plants one fault must get it.
        let planted = self.planted(route, position)?;
        strikes(PLANTED, &planted).then_some(planted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_hits_every_nth_film_as_often_as_it_says() {
        let faults = Faults::new(vec!["movie=503,every=3,times=2".parse().unwrap()], None);
        let met = |position| faults.meet(Route::Movie, position).is_some();
        assert_eq!([met(0), met(0), met(0)], [true, true, false]);
        assert_eq!(
            [met(1), met(2), met(3), met(4)],
            [false, false, true, false]
        );
        assert!(faults.meet(Route::Image, 6).is_none());
    }

    #[test]
    fn a_wrong_rule_is_refused_with_the_right_form() {
        for wrong in [
            "",
            "movie",
            "film=401",
            "movie=418",
            "movie=429,every=0",
            "movie=429,soon=1",
        ] {
            assert!(wrong.parse::<FaultRule>().is_err(), "{wrong}");
        }
        insta::assert_snapshot!("movie=418".parse::<FaultRule>().unwrap_err(), @r#"fault "movie=418": its kind is unknown; write ROUTE=KIND[,every=N][,times=T][,retry_after=S or date:S], with ROUTE one of configuration, genres, movie, changes, discover, export, image and KIND one of 401, 404, 422, 429, 500 to 599, html, empty, truncated, reset, redirect, redirect-loop, endless, slow-body, invalid-id, slow:SECONDS"#);
    }
}
