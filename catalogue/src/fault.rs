//! What can go wrong with an answer, and where.

/// Where a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Route {
    Configuration,
    Genres,
    Movie,
    Changes,
    Discover,
    Export,
    Image,
}

impl Route {
    pub(crate) const ALL: [(&'static str, Self); 7] = [
        ("configuration", Self::Configuration),
        ("genres", Self::Genres),
        ("movie", Self::Movie),
        ("changes", Self::Changes),
        ("discover", Self::Discover),
        ("export", Self::Export),
        ("image", Self::Image),
    ];
}

/// What happens instead of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// 401 with code 7.
    Unauthorized,
    /// 429; with Retry-After if the rule has `retry_after`.
    RateLimited,
    /// This 5xx; with Retry-After if the rule has `retry_after`.
    Server(u16),
    /// A page for people, with 200.
    Html,
    /// 200 with nothing.
    Empty,
    /// The connection ends in the middle of the body.
    Truncated,
    /// Code 44 with 200.
    InvalidId,
    /// The answer comes this many seconds late.
    Slow(u64),
    /// 404 with code 34.
    NotFound,
    /// 422 with code 5.
    Invalid,
    /// 302 to the same place, where the answer then is.
    Redirect,
    /// 302 to the same place, for ever.
    RedirectLoop,
    /// The connection ends before the answer.
    Reset,
    /// An answer that announces more than anyone takes.
    Endless,
    /// The answer comes in drops.
    SlowBody,
}

/// How a service says for how long it wants to be left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryAfter {
    None,
    Seconds(u64),
    /// As an HTTP date, this many seconds after the answer's own.
    Date(u64),
}

impl FaultKind {
    /// The kind of a rule's word.
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        match word {
            "401" => Some(Self::Unauthorized),
            "429" => Some(Self::RateLimited),
            "html" => Some(Self::Html),
            "empty" => Some(Self::Empty),
            "truncated" => Some(Self::Truncated),
            "invalid-id" => Some(Self::InvalidId),
            "404" => Some(Self::NotFound),
            "422" => Some(Self::Invalid),
            "redirect" => Some(Self::Redirect),
            "redirect-loop" => Some(Self::RedirectLoop),
            "reset" => Some(Self::Reset),
            "endless" => Some(Self::Endless),
            "slow-body" => Some(Self::SlowBody),
            _ => match word.strip_prefix("slow:") {
                Some(seconds) => seconds.parse().ok().map(Self::Slow),
                None => {
                    let status = word
                        .parse()
                        .ok()
                        .filter(|status| (500..600).contains(status));
                    status.map(Self::Server)
                }
            },
        }
    }
}

impl RetryAfter {
    /// The wait of a rule's `retry_after`.
    pub(crate) fn of_word(value: &str) -> Option<Self> {
        match value.strip_prefix("date:") {
            Some(seconds) => seconds.parse().ok().map(Self::Date),
            None => value.parse().ok().map(Self::Seconds),
        }
    }
}
