//! Which rank this process is, and where it meets the others.

use std::path::PathBuf;

use marquee_domain::child::env;

use crate::error::RunError;

/// Which process of an attempt this is. The variables are those of torchrun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) rank: u32,
    pub(crate) world_size: u32,
    /// Host and port of the store. None for one rank.
    pub(crate) store: Option<(String, u16)>,
    /// Ranks that may go on when others are lost. None: a lost rank ends the attempt.
    pub(crate) min_ranks: Option<u32>,
    /// Host and port of a second store, where ranks meet if the host of the first is lost.
    pub(crate) standby: Option<(String, u16)>,
    /// File in which the worker lists the ranks that the coordinator has given up.
    pub(crate) lost_ranks: Option<PathBuf>,
}

impl Place {
    /// One rank, alone.
    #[must_use]
    pub(crate) fn alone() -> Self {
        Self {
            rank: 0,
            world_size: 1,
            store: None,
            min_ranks: None,
            standby: None,
            lost_ranks: None,
        }
    }

    /// The place that environment variables name; None if `RANK` is not set.
    ///
    /// # Errors
    /// [`RunError`] that names the variable that is missing or wrong.
    pub(crate) fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, RunError> {
        let Some(rank) = get(env::RANK) else {
            return Ok(None);
        };
        let number = |name: &str, text: String| -> Result<u32, RunError> {
            text.parse().map_err(|_| {
                RunError::user(format!("{name} is {text:?}, but must be a whole number"))
            })
        };
        let needed = |name: &str| {
            get(name).ok_or_else(|| {
                RunError::user(format!("{} is set, but {name} is not; set both", env::RANK))
            })
        };
        let rank = number(env::RANK, rank)?;
        let world_size = number(env::WORLD_SIZE, needed(env::WORLD_SIZE)?)?;
        if rank >= world_size {
            return Err(RunError::user(format!(
                "{} is {rank}, but must be below {} ({world_size})",
                env::RANK,
                env::WORLD_SIZE
            )));
        }
        if world_size == 1 {
            return Ok(Some(Self::alone()));
        }
        let port = needed(env::MASTER_PORT)?;
        let port = port.parse().map_err(|_| {
            RunError::user(format!(
                "{} is {port:?}, but must be a port",
                env::MASTER_PORT
            ))
        })?;
        let min_ranks = get(env::MIN_RANKS)
            .map(|text| number(env::MIN_RANKS, text))
            .transpose()?;
        let standby = get(env::STANDBY_STORE)
            .map(|text| {
                address(&text).ok_or_else(|| {
                    let name = env::STANDBY_STORE;
                    RunError::user(format!("{name} is {text:?}, but must be host:port"))
                })
            })
            .transpose()?;
        Ok(Some(Self {
            rank,
            world_size,
            store: Some((needed(env::MASTER_ADDR)?, port)),
            min_ranks,
            standby,
            lost_ranks: get(env::LOST_RANKS_FILE).map(PathBuf::from),
        }))
    }
}

/// Host and port of `host:port`.
fn address(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    Some((host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Option<Place>, RunError> {
        Place::from_env(|name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_place_is_read_as_torchrun_sets_it() {
        assert_eq!(place(&[]).unwrap(), None);
        assert_eq!(
            place(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(),
            Some(Place::alone())
        );
        let two = [
            ("RANK", "1"),
            ("WORLD_SIZE", "2"),
            ("MASTER_ADDR", "h"),
            ("MASTER_PORT", "29500"),
        ];
        let expected = Place {
            rank: 1,
            world_size: 2,
            store: Some(("h".into(), 29_500)),
            ..Place::alone()
        };
        assert_eq!(place(&two).unwrap(), Some(expected));
    }

    #[test]
    fn a_wrong_place_is_refused_by_name() {
        let message = |variables: &[(&str, &str)]| place(variables).unwrap_err().message;
        assert!(message(&[("RANK", "0")]).contains("WORLD_SIZE is not"));
        assert!(message(&[("RANK", "x"), ("WORLD_SIZE", "2")]).contains("RANK is \"x\""));
        assert!(message(&[("RANK", "2"), ("WORLD_SIZE", "2")]).contains("must be below"));
        assert!(
            message(&[("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "1")])
                .contains("MASTER_ADDR")
        );
    }
}
