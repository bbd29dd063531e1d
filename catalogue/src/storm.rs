//! Faults by seed: which film meets which fault, and what must then become of it.
//!
//! Invariant: what befalls a film depends on (seed, share, position) alone, each fault has one
//! expected outcome, and the outcomes stand here, not in the code that is judged by them.

use marquee_datasets::dice::Dice;

use super::fault::FaultKind;
use super::film::{Fate, Films};

/// What befalls a film.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    /// Its details come with this fault, this often; None: always.
    Details(FaultKind, Option<u32>),
    /// Its poster comes with this fault.
    Poster(FaultKind, Option<u32>),
    /// Its poster is not what one would wish.
    Oddity(Oddity),
    /// The export has it twice.
    Twice,
    /// A line that is no film stands before it in the export.
    Nonsense,
    /// The details are those of another film.
    WrongFilm,
}

/// What a poster's file can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Oddity {
    Png,
    Png16,
    WebP,
    Cmyk,
    Grey,
    Progressive,
    /// Stored sideways, with a note that says so.
    Rotated,
    /// A JPEG with a ZIP archive behind it.
    Polyglot,
    /// An animation, as the two below.
    Gif,
    AnimatedPng,
    AnimatedWebP,
    /// A BMP: of no format that is taken.
    Bitmap,
    /// A page behind the first bytes of a JPEG.
    PageAsJpeg,
    Truncated,
    Garbage,
    /// A header that promises 40,000 x 40,000 pixels.
    HugeJpeg,
    /// A small file that unpacks to 30,000 x 30,000 pixels.
    HugePng,
    OnePixel,
    Tiny,
    Thin,
    Black,
    White,
    Flat,
    Blurred,
    /// The picture that services show for none.
    Placeholder,
    /// The very file of another film.
    SameFile,
    /// Another film's picture, stored anew.
    SamePicture,
}

/// All that can befall a film, each as likely as the others.
const PLANTS: [Plant; 56] = [
    Plant::Details(FaultKind::NotFound, None),
    Plant::Details(FaultKind::InvalidId, None),
    Plant::Details(FaultKind::Html, None),
    Plant::Details(FaultKind::Empty, None),
    Plant::Details(FaultKind::Truncated, None),
    Plant::Details(FaultKind::Server(500), None),
    Plant::Details(FaultKind::Redirect, None),
    Plant::Details(FaultKind::RedirectLoop, None),
    Plant::Details(FaultKind::Invalid, None),
    Plant::Details(FaultKind::Html, Some(1)),
    Plant::Details(FaultKind::Empty, Some(1)),
    Plant::Details(FaultKind::Truncated, Some(1)),
    Plant::Details(FaultKind::Reset, Some(1)),
    Plant::Details(FaultKind::Server(503), Some(2)),
    Plant::Details(FaultKind::RateLimited, Some(1)),
    Plant::Details(FaultKind::SlowBody, None),
    Plant::Poster(FaultKind::NotFound, None),
    Plant::Poster(FaultKind::Html, None),
    Plant::Poster(FaultKind::Empty, None),
    Plant::Poster(FaultKind::Server(502), None),
    Plant::Poster(FaultKind::RedirectLoop, None),
    Plant::Poster(FaultKind::Endless, None),
    Plant::Poster(FaultKind::Redirect, None),
    Plant::Poster(FaultKind::Truncated, Some(1)),
    Plant::Poster(FaultKind::Reset, Some(1)),
    Plant::Poster(FaultKind::RateLimited, Some(1)),
    Plant::Twice,
    Plant::Nonsense,
    Plant::WrongFilm,
    Plant::Oddity(Oddity::Png),
    Plant::Oddity(Oddity::Png16),
    Plant::Oddity(Oddity::WebP),
    Plant::Oddity(Oddity::Cmyk),
    Plant::Oddity(Oddity::Grey),
    Plant::Oddity(Oddity::Progressive),
    Plant::Oddity(Oddity::Rotated),
    Plant::Oddity(Oddity::Polyglot),
    Plant::Oddity(Oddity::Gif),
    Plant::Oddity(Oddity::AnimatedPng),
    Plant::Oddity(Oddity::AnimatedWebP),
    Plant::Oddity(Oddity::Bitmap),
    Plant::Oddity(Oddity::PageAsJpeg),
    Plant::Oddity(Oddity::Truncated),
    Plant::Oddity(Oddity::Garbage),
    Plant::Oddity(Oddity::HugeJpeg),
    Plant::Oddity(Oddity::HugePng),
    Plant::Oddity(Oddity::OnePixel),
    Plant::Oddity(Oddity::Tiny),
    Plant::Oddity(Oddity::Thin),
    Plant::Oddity(Oddity::Black),
    Plant::Oddity(Oddity::White),
    Plant::Oddity(Oddity::Flat),
    Plant::Oddity(Oddity::Blurred),
    Plant::Oddity(Oddity::Placeholder),
    Plant::Oddity(Oddity::SameFile),
    Plant::Oddity(Oddity::SamePicture),
];

/// Purposes of the dice.
const DEAL: u64 = 101;
const PARTNER_LOOKED_FOR: usize = 200;

/// Faults for a catalogue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Storm {
    pub seed: u64,
    /// Share of the films that something befalls.
    pub share: f64,
}

/// What must become of an id that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Truth {
    pub(crate) id: String,
    /// "fetched", "gone", "rejected" or "failed".
    pub(crate) outcome: &'static str,
    /// Of what is rejected or failed.
    pub(crate) class: Option<&'static str>,
    /// Why preprocess skips the picture, if it must.
    pub(crate) skipped: Option<&'static str>,
    /// Quality flags that the picture must have.
    pub(crate) flags: Vec<&'static str>,
    /// What was planted.
    pub(crate) planted: Option<String>,
}

impl Storm {
    /// What befalls the film at `position`.
    pub(crate) fn plant_at(&self, position: usize) -> Option<Plant> {
        let mut dice = Dice::keyed(&[self.seed, DEAL, position as u64]);
        // From the position alone: the server and the truth file never have to agree on an order.
        dice.chance(self.share).then(|| *dice.pick(&PLANTS))
    }

    /// The film whose picture the one at `position` has as well: the nearest before it that is as
    /// it should be.
    pub(crate) fn partner_of(&self, films: &Films, position: usize) -> Option<usize> {
        (position.saturating_sub(PARTNER_LOOKED_FOR)..position)
            .rev()
            // Before it, so that of two who are each other's copies one is the original.
            .find(|at| films.fate_at(*at) == Fate::Plain && self.plant_at(*at).is_none())
    }

    /// What must become of the film at `position`.
    pub(crate) fn truth_at(&self, films: &Films, position: usize) -> Truth {
        let plant = self.plant_at(position);
        let fate = films.fate_at(position);
        let (outcome, class) = expected(fate, plant);
        let mut truth = Truth {
            id: films.id_at(position).to_string(),
            outcome,
            class,
            skipped: None,
            flags: Vec::new(),
            planted: plant.map(|plant| format!("{plant:?}")),
        };
        // What is not fetched is never prepared: nothing can be said of its picture.
        if outcome != "fetched" {
            return truth;
        }
        if fate == Fate::BrokenPoster {
            truth.skipped = Some("truncated");
        } else if let Some(Plant::Oddity(oddity)) = plant {
            truth.skipped = oddity.skipped();
            truth.flags = oddity.flags().to_vec();
        }
        truth
    }
}

/// What a fetch must say of a film.
// The order is that in which a fetch learns of things: the details before the poster, the poster's
// fault before its contents.
fn expected(fate: Fate, plant: Option<Plant>) -> (&'static str, Option<&'static str>) {
    let fetched = ("fetched", None);
    let natural = match fate {
        Fate::Plain | Fate::BrokenPoster => fetched,
        Fate::WithoutPoster => ("rejected", Some("no_poster")),
        Fate::WithoutGenres => ("rejected", Some("no_labels")),
        Fate::Adult => ("rejected", Some("adult")),
        Fate::Vanished => ("gone", None),
    };
    match plant {
        // A film that is marked in the export is never asked for; one that is not is, and its
        // details tell.
        Some(Plant::Details(kind, None)) => of_details(kind).unwrap_or(natural),
        Some(Plant::WrongFilm) if fate != Fate::Vanished => ("failed", Some("wrong_film")),
        Some(Plant::Poster(kind, None)) if natural == fetched => of_poster(kind).unwrap_or(natural),
        Some(Plant::Oddity(Oddity::Bitmap)) if natural == fetched => {
            ("rejected", Some("unknown_format"))
        }
        Some(
            Plant::Details(..)
            | Plant::Poster(..)
            | Plant::Oddity(_)
            | Plant::Twice
            | Plant::Nonsense
            | Plant::WrongFilm,
        )
        | None => natural,
    }
}

/// What details that always come with this fault lead to; None: to nothing.
fn of_details(kind: FaultKind) -> Option<(&'static str, Option<&'static str>)> {
    match kind {
        FaultKind::NotFound | FaultKind::InvalidId => Some(("gone", None)),
        FaultKind::Html => Some(("failed", Some("nonsense"))),
        FaultKind::Empty => Some(("failed", Some("empty"))),
        FaultKind::Truncated => Some(("failed", Some("truncated"))),
        FaultKind::Server(_) => Some(("failed", Some("http_500"))),
        FaultKind::RedirectLoop => Some(("failed", Some("redirects"))),
        FaultKind::Invalid => Some(("failed", Some("http_422"))),
        FaultKind::Redirect
        | FaultKind::Reset
        | FaultKind::Endless
        | FaultKind::SlowBody
        | FaultKind::Slow(_)
        | FaultKind::RateLimited
        | FaultKind::Unauthorized => None,
    }
}

fn of_poster(kind: FaultKind) -> Option<(&'static str, Option<&'static str>)> {
    match kind {
        FaultKind::NotFound => Some(("rejected", Some("poster_missing"))),
        FaultKind::Html => Some(("failed", Some("nonsense"))),
        FaultKind::Empty => Some(("failed", Some("empty"))),
        FaultKind::Truncated => Some(("failed", Some("truncated"))),
        FaultKind::Server(_) => Some(("failed", Some("http_502"))),
        FaultKind::RedirectLoop => Some(("failed", Some("redirects"))),
        FaultKind::Endless => Some(("rejected", Some("too_large"))),
        FaultKind::Redirect
        | FaultKind::Invalid
        | FaultKind::InvalidId
        | FaultKind::Reset
        | FaultKind::SlowBody
        | FaultKind::Slow(_)
        | FaultKind::RateLimited
        | FaultKind::Unauthorized => None,
    }
}

impl Oddity {
    /// The class with which preprocess must skip the picture.
    fn skipped(self) -> Option<&'static str> {
        match self {
            Self::Truncated => Some("truncated"),
            Self::PageAsJpeg => Some("not_a_picture"),
            Self::Garbage => Some("undecodable"),
            Self::HugeJpeg | Self::HugePng => Some("too_large"),
            Self::Png
            | Self::Png16
            | Self::WebP
            | Self::Cmyk
            | Self::Grey
            | Self::Progressive
            | Self::Rotated
            | Self::Polyglot
            | Self::Gif
            | Self::AnimatedPng
            | Self::AnimatedWebP
            | Self::Bitmap
            | Self::OnePixel
            | Self::Tiny
            | Self::Thin
            | Self::Black
            | Self::White
            | Self::Flat
            | Self::Blurred
            | Self::Placeholder
            | Self::SameFile
            | Self::SamePicture => None,
        }
    }

    /// Flags that the picture must have; it may have more.
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::OnePixel | Self::Tiny => &["tiny"],
            Self::Thin => &["odd_aspect"],
            Self::Black => &["dark", "low_information"],
            Self::White => &["light", "low_information"],
            Self::Flat => &["low_information"],
            Self::Blurred => &["blurry"],
            Self::Grey => &["greyscale"],
            Self::Placeholder => &["placeholder"],
            Self::SameFile => &["exact_duplicate"],
            Self::SamePicture => &["near_duplicate"],
            Self::Png
            | Self::Png16
            | Self::WebP
            | Self::Gif
            | Self::AnimatedPng
            | Self::AnimatedWebP => &["format_mismatch"],
            Self::Cmyk
            | Self::Progressive
            | Self::Rotated
            | Self::Polyglot
            | Self::Bitmap
            | Self::PageAsJpeg
            | Self::Truncated
            | Self::Garbage
            | Self::HugeJpeg
            | Self::HugePng => &[],
        }
    }
}
