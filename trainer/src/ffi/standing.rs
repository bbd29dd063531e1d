//! Where this process stands, for its worker to read ([`marquee_domain::pulse`]). Where nobody asked for
//! it, all of this goes nowhere.

use std::ffi::{c_char, c_int};
use std::path::Path;

use marquee_domain::pulse::{MAGIC, Phase, STACKS_END, STACKS_MAX_BYTES, STACKS_SUFFIX};

use super::{c_text, check};
use crate::error::TorchError;

unsafe extern "C" {
    fn marquee_standing_open(
        path: *const c_char,
        stacks: *const c_char,
        magic: u64,
        most: u64,
        end: *const c_char,
    ) -> c_int;
    fn marquee_standing_at(phase: u64);
    fn marquee_standing_beat();
    fn marquee_standing_step(step: u64);
}

/// Says from now on in the file `path` where this process stands, and answers SIGUSR2 with its stacks. Once
/// in a process.
pub(crate) fn open_standing(path: &Path) -> Result<(), TorchError> {
    let path = path.to_string_lossy();
    let (file, stacks) = (c_text(&path)?, c_text(&format!("{path}{STACKS_SUFFIX}"))?);
    let end = c_text(STACKS_END)?;
    // SAFETY: three NUL-terminated texts, which the shim copies.
    check(unsafe {
        marquee_standing_open(
            file.as_ptr(),
            stacks.as_ptr(),
            MAGIC,
            STACKS_MAX_BYTES,
            end.as_ptr(),
        )
    })
}

/// This process is at `phase` from now on.
pub(crate) fn stand(phase: Phase) {
    // SAFETY: stores a number.
    unsafe { marquee_standing_at(phase as u64) }
}

/// Something was done, and there is more of the same.
pub(crate) fn beat() {
    // SAFETY: as above.
    unsafe { marquee_standing_beat() }
}

/// So many steps are done.
pub(crate) fn stand_at_step(step: u64) {
    // SAFETY: as above.
    unsafe { marquee_standing_step(step) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use marquee_domain::pulse;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn where_it_stands_is_read_from_the_file_and_stacks_come_when_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("standing");
        open_standing(&path).unwrap();
        let read = || pulse::read(&fs::read(&path).unwrap()).unwrap();
        let before = read();
        assert!(before.answers && before.since_ms > 0);
        stand_at_step(12);
        stand(Phase::AllReduce);
        beat();
        let after = read();
        assert_eq!((after.step, after.phase), (12, Some(Phase::AllReduce)));
        assert!(after.beats >= before.beats + 3);

        let stacks = folder.path().join(format!("standing{STACKS_SUFFIX}"));
        kill(Pid::this(), Signal::SIGUSR2).unwrap();
        let since = Instant::now();
        let text = loop {
            let text = fs::read_to_string(&stacks).unwrap_or_default();
            if text.trim_end().ends_with(STACKS_END) {
                break text;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "{text}");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(text.starts_with("thread "), "{text}");
        // This thread sleeps, as its stack says.
        assert!(text.contains("nanosleep"), "{text}");
    }
}
