//! What a job's program does: told by its arguments, so that the job's document says it and every attempt of it
//! does the same.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::draw::Draw;

/// How a child comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It does its work and leaves in order.
    Well,
    /// It leaves with status 3: a mistake of its user's, which no second try mends.
    Badly,
}

/// A child's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// How long its work takes once all of its gang are there.
    pub work_ms: u64,
    /// Lines it says meanwhile.
    pub lines: u64,
    pub end: End,
    /// So many attempts die of a signal half-way before one goes well.
    pub crashes: u64,
    /// How soon it leaves when it is told to. None: it does not listen.
    pub leaves_ms: Option<u64>,
    /// How soon it notices that one of its gang has died. None: never, it hangs.
    pub notices_ms: Option<u64>,
}

impl Script {
    /// A script as it may come.
    pub fn draw(draw: &mut Draw) -> Self {
        let some = |draw: &mut Draw, percent, low, high| {
            draw.chance(percent).then(|| draw.between(low, high))
        };
        Self {
            // Half are over within some steps; the other half live long enough to meet several
            // faults.
            work_ms: if draw.chance(50) {
                draw.between(5, 400)
            } else {
                draw.between(400, 9_000)
            },
            lines: draw.between(0, 6),
            end: if draw.chance(8) {
                End::Badly
            } else {
                End::Well
            },
            crashes: if draw.chance(15) {
                draw.between(1, 2)
            } else {
                0
            },
            // The others stay until they are killed, which is a path of its own in the worker.
            leaves_ms: some(draw, 80, 1, 600),
            notices_ms: some(draw, 50, 10, 1_500),
        }
    }

    /// A part without end: it works until it is stopped.
    pub fn endless(draw: &mut Draw) -> Self {
        Self {
            work_ms: 3_600_000,
            crashes: 0,
            end: End::Well,
            ..Self::draw(draw)
        }
    }

    /// The arguments that say it.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        let number = |name: &str, value: Option<u64>| {
            let value = value.map_or("never".to_owned(), |value| value.to_string());
            format!("{name}={value}")
        };
        vec![
            "play".to_owned(),
            number("work_ms", Some(self.work_ms)),
            number("lines", Some(self.lines)),
            number("fails", Some(u64::from(self.end == End::Badly))),
            number("crashes", Some(self.crashes)),
            number("leaves_ms", self.leaves_ms),
            number("notices_ms", self.notices_ms),
        ]
    }

    /// Reads what [`argv`](Self::argv) wrote.
    #[must_use]
    pub fn read(argv: &[OsString]) -> Self {
        let text = argv.iter().map(|arg| arg.to_string_lossy().into_owned());
        let pairs: BTreeMap<String, String> = text
            .filter_map(|arg| {
                let (name, value) = arg.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect();
        let number = |name: &str| pairs.get(name).and_then(|value| value.parse().ok());
        Self {
            work_ms: number("work_ms").unwrap_or(0),
            lines: number("lines").unwrap_or(0),
            end: match number("fails") {
                Some(1) => End::Badly,
                Some(_) | None => End::Well,
            },
            crashes: number("crashes").unwrap_or(0),
            leaves_ms: number("leaves_ms"),
            notices_ms: number("notices_ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_say_all_of_a_script() {
        let mut draw = Draw::of(7, "scripts");
        for _ in 0..50 {
            let script = Script::draw(&mut draw);
            let argv: Vec<OsString> = script.argv().into_iter().map(Into::into).collect();
            assert_eq!(Script::read(&argv), script);
        }
    }
}
