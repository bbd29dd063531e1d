//! Where the user is, and what a key does there. Nothing here asks or draws anything.
//!
//! Invariant: what is chosen is a job or host by its name, not a line: lists move while they are looked at, and a
//! key must never act on what slipped under it.

use marquee_view::{Tone, words};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::facts::{Facts, Filter, News, Query};
use super::ink::Ink;

/// Bytes that the coordinator takes to search for.
const SEARCH_MAX: usize = 128;

/// A page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Place {
    #[default]
    Overview,
    Jobs(Query),
    Hosts,
    Gpus,
    Host(String),
    Job(i64),
    Log(i64),
}

/// Something that can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    Job(i64),
    /// A reason to wait, by its words, with one of the jobs.
    Reason(String, i64),
    Host(String),
    Gpu(String, u32),
}

/// A page, and how far the user has come in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Seat {
    pub place: Place,
    pub chosen: Option<Key>,
    /// Its line when it was drawn last: where it is gone, its neighbour is chosen.
    pub row: usize,
    /// The first line that is shown, of pages of text.
    pub top: usize,
    /// Number of the last line of a log that is shown; None: it follows.
    pub until: Option<u64>,
    pub search: String,
    /// Of a log; None: all ranks.
    pub rank: Option<u32>,
}

impl Seat {
    fn at(place: Place) -> Self {
        Self {
            place,
            ..Self::default()
        }
    }
}

/// What has to be confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub job: i64,
    pub name: String,
}

/// What the program is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    Quit,
    Suspend,
    Redraw,
    Cancel(i64),
}

/// What has to be asked of the coordinator for what is shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    pub place: Place,
    pub rank: Option<u32>,
}

/// All that the screen shows.
#[derive(Debug)]
pub(super) struct App {
    pub facts: Facts,
    pub ink: Ink,
    /// The page that is shown is the last one; the others lie below it.
    trail: Vec<Seat>,
    /// A text is being typed.
    pub types: bool,
    pub question: Option<Question>,
    pub flash: Option<(String, Tone)>,
    pub helps: bool,
    /// What can be chosen, in the order of its lines; set by whoever draws.
    pub keys: Vec<Key>,
    /// Lines of the page's body; set by whoever draws.
    pub height: usize,
    /// The first line of a page of text when its end is shown; set by whoever draws.
    pub last_top: usize,
    /// One picture for a pipe: nobody presses keys.
    pub is_still: bool,
}

impl App {
    pub(super) fn new(facts: Facts, ink: Ink) -> Self {
        Self {
            facts,
            ink,
            trail: vec![Seat::default()],
            types: false,
            question: None,
            flash: None,
            helps: false,
            keys: Vec::new(),
            height: 1,
            last_top: 0,
            is_still: false,
        }
    }

    pub(super) fn seat(&self) -> &Seat {
        self.trail.last().expect("the first page is never left")
    }

    pub(super) fn seat_mut(&mut self) -> &mut Seat {
        self.trail.last_mut().expect("the first page is never left")
    }

    pub(super) fn trail(&self) -> &[Seat] {
        &self.trail
    }

    pub(super) fn wanted(&self) -> Wanted {
        let seat = self.seat();
        Wanted {
            place: seat.place.clone(),
            rank: seat.rank,
        }
    }

    pub(super) fn take(&mut self, news: News, now: chrono::DateTime<chrono::Utc>) {
        self.flash = match self.facts.take(news, now) {
            Some(News::Trouble(text)) => Some((text, Tone::Bad)),
            Some(News::Said(text)) => Some((text, Tone::Good)),
            Some(_) | None => return,
        };
    }

    /// The job that a key acts on.
    fn chosen_job(&self) -> Option<i64> {
        match (&self.seat().place, &self.seat().chosen) {
            (Place::Job(id) | Place::Log(id), _) => Some(*id),
            (_, Some(Key::Job(id) | Key::Reason(_, id))) => Some(*id),
            (_, Some(Key::Host(_) | Key::Gpu(..)) | None) => None,
        }
    }

    /// Opens a page above the one that is shown.
    fn open(&mut self, place: Place) {
        // Laid above itself, a page would need two Esc to be left, and the first would seem to do
        // nothing.
        if self.seat().place == place {
            return;
        }
        // What is known of another job is not what is asked for.
        if let Place::Job(_) = place {
            self.facts.look = None;
        }
        if let Place::Log(_) = place {
            // A new one, not the old one emptied: whatever still follows the old one writes into
            // that.
            self.facts.log = super::facts::SharedLog::default();
        }
        self.trail.push(Seat::at(place));
    }

    fn start_at(&mut self, place: Place) {
        self.trail = vec![Seat::at(place)];
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "all other keys of a keyboard do nothing"
    )]
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Order> {
        // Some terminals tell of both: each key would act twice.
        if key.kind == KeyEventKind::Release {
            return None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Some(Order::Quit),
                KeyCode::Char('z') => Some(Order::Suspend),
                KeyCode::Char('l') => Some(Order::Redraw),
                KeyCode::Char('u') if self.types => {
                    self.edit(String::clear);
                    None
                }
                _ => None,
            };
        }
        if let Some(question) = self.question.take() {
            // Any other key is a no: nobody cancels a job by a slip of the hand.
            return matches!(key.code, KeyCode::Char('y' | 'Y'))
                .then_some(Order::Cancel(question.job));
        }
        // Whatever is pressed closes the help and does nothing else: the user could not see what it
        // would act on.
        if std::mem::take(&mut self.helps) {
            return None;
        }
        if self.types {
            self.type_key(key.code);
            return None;
        }
        self.flash = None;
        self.command(key.code)
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "all other keys of a keyboard do nothing"
    )]
    fn command(&mut self, code: KeyCode) -> Option<Order> {
        match code {
            KeyCode::Char('q') => return Some(Order::Quit),
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left | KeyCode::Char('h') => self.back(),
            KeyCode::Char('1') => self.start_at(Place::Overview),
            KeyCode::Char('2') => self.start_at(Place::Jobs(Query::default())),
            KeyCode::Char('3') => self.start_at(Place::Hosts),
            KeyCode::Char('4') => self.start_at(Place::Gpus),
            KeyCode::Tab => self.next_tab(),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-self.whole_page()),
            KeyCode::PageDown | KeyCode::Char(' ') => self.step(self.whole_page()),
            // As far as there is: each kind of page cuts a step at its own ends.
            KeyCode::Home | KeyCode::Char('g') => self.step(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX),
            KeyCode::Enter | KeyCode::Right => self.enter(),
            KeyCode::Char('/') => self.types = self.can_search(),
            KeyCode::Char('s') => self.next_filter(),
            KeyCode::Char('l') => {
                if let Some(job) = self.chosen_job() {
                    self.open(Place::Log(job));
                }
            }
            KeyCode::Char('c') => self.ask(),
            KeyCode::Char('f') => self.seat_mut().until = None,
            KeyCode::Char('n') => self.find(1),
            KeyCode::Char('N') => self.find(-1),
            KeyCode::Char('r') => self.next_rank(),
            KeyCode::Char('?') => self.helps = true,
            _ => {}
        }
        None
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "all other keys of a keyboard do nothing"
    )]
    fn type_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char(c) => self.edit(|text| {
                if text.len() + c.len_utf8() <= SEARCH_MAX {
                    text.push(c);
                }
            }),
            KeyCode::Backspace => self.edit(|text| {
                text.pop();
            }),
            KeyCode::Enter => {
                self.types = false;
                if matches!(self.seat().place, Place::Log(_)) {
                    // Backwards: a log that follows stands at its end, and hits lie above.
                    self.find(-1);
                }
            }
            KeyCode::Esc => {
                self.edit(String::clear);
                self.types = false;
            }
            _ => {}
        }
    }

    pub(super) fn can_search(&self) -> bool {
        matches!(self.seat().place, Place::Jobs(_) | Place::Log(_))
    }

    /// What is searched for here.
    pub(super) fn search(&self) -> &str {
        let seat = self.seat();
        if let Place::Jobs(query) = &seat.place {
            &query.text
        } else {
            &seat.search
        }
    }

    fn edit(&mut self, change: impl FnOnce(&mut String)) {
        let seat = self.seat_mut();
        if let Place::Jobs(query) = &mut seat.place {
            change(&mut query.text);
        } else {
            change(&mut seat.search);
        }
    }

    fn back(&mut self) {
        if self.trail.len() > 1 {
            self.trail.pop();
        } else if !self.search().is_empty() {
            self.edit(String::clear);
        }
    }

    fn next_tab(&mut self) {
        let next = match self.trail[0].place {
            Place::Overview => Place::Jobs(Query::default()),
            Place::Jobs(_) => Place::Hosts,
            Place::Hosts | Place::Host(_) => Place::Gpus,
            Place::Gpus | Place::Job(_) | Place::Log(_) => Place::Overview,
        };
        self.start_at(next);
    }

    fn next_filter(&mut self) {
        // A part of the place itself, so that each letter asks the coordinator anew.
        if let Place::Jobs(query) = &mut self.seat_mut().place {
            query.filter = query.filter.next();
        }
    }

    fn next_rank(&mut self) {
        let Place::Log(job) = self.seat().place else {
            return;
        };
        let ranks = self.facts.job(job).map_or(1, |job| job.ranks);
        if ranks < 2 {
            return;
        }
        let seat = self.seat_mut();
        seat.rank = match seat.rank {
            None => Some(0),
            Some(rank) if rank + 1 < ranks => Some(rank + 1),
            Some(_) => None,
        };
        seat.until = None;
        self.facts.log = super::facts::SharedLog::default();
    }

    fn whole_page(&self) -> isize {
        // Less than the page by two: these lines stay in sight, and the eye finds where it was.
        isize::try_from(self.height.saturating_sub(2).max(1)).unwrap_or(1)
    }

    fn step(&mut self, by: isize) {
        match self.seat().place {
            Place::Job(_) | Place::Host(_) => {
                let last = self.last_top;
                let seat = self.seat_mut();
                seat.top = seat.top.saturating_add_signed(by).min(last);
            }
            Place::Log(_) => self.step_log(by),
            Place::Overview | Place::Jobs(_) | Place::Hosts | Place::Gpus => {
                let Some(last) = self.keys.len().checked_sub(1) else {
                    return;
                };
                let row = self.chosen_row().saturating_add_signed(by).min(last);
                let key = self.keys[row].clone();
                let seat = self.seat_mut();
                (seat.row, seat.chosen) = (row, Some(key));
            }
        }
    }

    /// The line of what is chosen; where that is gone, of what stands in its place.
    fn chosen_row(&self) -> usize {
        let seat = self.seat();
        let found = self
            .keys
            .iter()
            .position(|key| Some(key) == seat.chosen.as_ref());
        found.unwrap_or(seat.row.min(self.keys.len().saturating_sub(1)))
    }

    /// Says which things can be chosen now, and which of them is.
    pub(super) fn offer(&mut self, keys: Vec<Key>) -> Option<usize> {
        self.keys = keys;
        let row = self.chosen_row();
        let key = self.keys.get(row).cloned();
        let seat = self.seat_mut();
        seat.row = row;
        seat.chosen = key;
        seat.chosen.is_some().then_some(row)
    }

    fn step_log(&mut self, by: isize) {
        let (first, last) = {
            let log = self.facts.log.lock();
            (
                log.passed,
                (log.passed + log.lines.len() as u64).saturating_sub(1),
            )
        };
        let now = self.seat().until.unwrap_or(last);
        let by = i64::try_from(by).unwrap_or(i64::MAX);
        // Of an empty log the last line would lie before the first, for which `clamp` panics.
        let then = now.saturating_add_signed(by).clamp(first, last.max(first));
        // At the last line it follows again.
        self.seat_mut().until = (then < last).then_some(then);
    }

    /// Goes to the next line of the log in which the searched text stands, or to the one before.
    fn find(&mut self, by: isize) {
        let wanted = self.seat().search.to_lowercase();
        if wanted.is_empty() || !matches!(self.seat().place, Place::Log(_)) {
            return;
        }
        let found = {
            let log = self.facts.log.lock();
            let is_hit =
                |line: &marquee_proto::v1::LogLine| line.text.to_lowercase().contains(&wanted);
            let hits = log
                .lines
                .iter()
                .enumerate()
                .filter(|(_, line)| is_hit(line));
            let mut hits = hits.map(|(place, _)| log.passed + place as u64);
            match self.seat().until {
                Some(until) if by > 0 => hits.find(|hit| *hit > until),
                Some(until) => hits.take_while(|hit| *hit < until).last(),
                // It follows the end: nothing lies below.
                None if by > 0 => None,
                None => hits.next_back(),
            }
        };
        match found {
            Some(line) => self.seat_mut().until = Some(line),
            None => self.flash = Some((format!("\"{wanted}\" is not in what follows"), Tone::Warn)),
        }
    }

    fn enter(&mut self) {
        let place = match (&self.seat().place, &self.seat().chosen) {
            (Place::Job(id), _) => {
                let array = self.facts.job(*id).filter(|job| job.elements.is_some());
                let Some(array) = array.map(|job| job.id) else {
                    return;
                };
                Place::Jobs(Query {
                    array,
                    ..Query::default()
                })
            }
            (_, Some(Key::Job(id) | Key::Reason(_, id))) => Place::Job(*id),
            (_, Some(Key::Host(name) | Key::Gpu(name, _))) => Place::Host(name.clone()),
            (_, None) => return,
        };
        self.open(place);
    }

    fn ask(&mut self) {
        let Some(id) = self.chosen_job() else { return };
        // The question names the job: nobody should have to confirm a bare number.
        let Some(job) = self.facts.job(id) else {
            self.flash = Some((format!("job {id} is not known yet"), Tone::Warn));
            return;
        };
        if words::has_ended(job) {
            let text = format!("job {id} has ended: {}", words::job_state(job));
            self.flash = Some((text, Tone::Warn));
            return;
        }
        self.question = Some(Question {
            job: id,
            name: words::job_name(job),
        });
    }

    /// Which of the first pages the shown one belongs to.
    pub(super) fn tab(&self) -> usize {
        match &self.trail[0].place {
            Place::Overview | Place::Job(_) | Place::Log(_) => 0,
            Place::Jobs(_) => 1,
            Place::Hosts | Place::Host(_) => 2,
            Place::Gpus => 3,
        }
    }

    /// The filter of the list that is shown.
    pub(super) fn filter(&self) -> Filter {
        if let Place::Jobs(query) = &self.seat().place {
            query.filter
        } else {
            Filter::All
        }
    }
}
