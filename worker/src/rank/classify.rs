//! How a child's end is judged, from its exit status and its last word.

use std::path::Path;

use marquee_domain::FailureClass;
use marquee_domain::child::ExitCode;
use marquee_domain::failure::Failure;
use marquee_domain::spec::JobKind;
use serde_json::Value;

use super::pump::LastWord;
use crate::process::launcher::Exit;

/// Bytes and lines of stderr shown in a failure's message: the last ones, where the cause mostly is.
pub const STDERR_TAIL_BYTES: usize = 2_000;
const STDERR_TAIL_LINES: usize = 5;

/// What a worker saw of a child's end.
#[derive(Debug, Clone)]
pub struct Ending<'a> {
    pub kind: JobKind,
    /// Name of the program, for messages.
    pub program: &'a str,
    /// None: its keeper was killed before it could say.
    pub exit: Option<Exit>,
    pub word: Option<LastWord>,
    /// The end of its stderr.
    pub stderr_tail: &'a str,
    /// The worker's data folder, where its disk was full when the child ended.
    pub full_disk: Option<&'a Path>,
    /// What the walls around it do not let it write to, for one that was refused a file.
    pub hint: Option<&'static str>,
}

/// How programs say that a disk is full.
const FULL_WORDS: [&str; 4] = [
    "No space left on device",
    "os error 28",
    "Disk quota exceeded",
    "ENOSPC",
];

/// The summary of a child that did its work, or why it did not.
pub fn judge(ending: &Ending<'_>) -> Result<Value, Failure> {
    let judged = match ending.kind {
        JobKind::Command => judge_command(ending).map_err(|failure| by_last_words(failure, ending)),
        JobKind::Fetch | JobKind::Preprocess | JobKind::Train | JobKind::Eval => judge_own(ending),
    };
    judged.map_err(|failure| for_want_of_room(failure, ending))
}

/// What a program's last words prove that its exit status does not, by class: of CUDA, where memory is an error
/// like any other, and of what carries exchanges between ranks. Words of the libraries, not of scripts.
const LAST_WORDS: [(FailureClass, &[&str]); 3] = [
    // The order counts: CUDA's words for a want of memory begin like those for any other error.
    (
        FailureClass::OutOfMemory,
        &[
            "CUDA out of memory",
            "torch.OutOfMemoryError",
            "CUDA error: out of memory",
            "CUBLAS_STATUS_ALLOC_FAILED",
            "DefaultCPUAllocator: can't allocate memory",
        ],
    ),
    (
        FailureClass::Collective,
        &[
            "ncclRemoteError",
            "ncclSystemError",
            "ncclInternalError",
            "Connection closed by peer",
            "Watchdog caught collective operation timeout",
            "torch.distributed.DistNetworkError",
            "torch.distributed.DistBackendError",
        ],
    ),
    (
        FailureClass::DeviceFault,
        &[
            "CUDA error:",
            "CUDNN_STATUS_",
            "CUBLAS_STATUS_",
            "uncorrectable ECC error",
            "GPU is lost",
        ],
    ),
];

/// A program that failed is judged by its last words too, where these are a library's.
fn by_last_words(failure: Failure, ending: &Ending<'_>) -> Failure {
    // A class that something better than an exit status has proved stays.
    let died = matches!(failure.class, FailureClass::UserError | FailureClass::Crash);
    let is_said = |words: &&[&str]| words.iter().any(|word| ending.stderr_tail.contains(word));
    let found = LAST_WORDS.iter().find(|(_, words)| is_said(words));
    match found {
        Some((class, _)) if died => Failure {
            class: *class,
            ..failure
        },
        Some(_) | None => failure,
    }
}

/// A failure that a full disk explains is called so: another host, or the same one later, may have room.
fn for_want_of_room(failure: Failure, ending: &Ending<'_>) -> Failure {
    match failure.class {
        FailureClass::UserError | FailureClass::Crash => {}
        FailureClass::OutOfMemory
        | FailureClass::BadInput
        | FailureClass::DeviceFault
        | FailureClass::LostWorker
        | FailureClass::Timeout
        | FailureClass::Network
        | FailureClass::DiskFull
        | FailureClass::Hang
        | FailureClass::Collective
        | FailureClass::Idle => return failure,
    }
    let says = |text: &str| FULL_WORDS.iter().any(|word| text.contains(word));
    let message = &failure.message;
    let message = match ending.full_disk {
        Some(folder) => format!(
            "{message}; the worker's disk is full: make room where {folder:?} is, or let the job write less"
        ),
        None if says(message) || says(ending.stderr_tail) => {
            format!(
                "{message}; a disk of the worker is full: make room there, or let the job write less"
            )
        }
        None => return failure,
    };
    fail(FailureClass::DiskFull, message)
}

/// Any program: its status is all that counts.
fn judge_command(ending: &Ending<'_>) -> Result<Value, Failure> {
    match &ending.exit {
        Some(Exit::Code(0)) => Ok(Value::Object(serde_json::Map::new())),
        Some(Exit::Code(code)) => {
            let message = format!("{} exited with status {code}", ending.program);
            let message = with_tail(message, ending);
            Err(fail(FailureClass::UserError, or_fenced(message, ending)))
        }
        Some(Exit::NotStarted { error }) => {
            let message = format!(
                "{} could not be started: {error}; argv names a program on the worker's PATH, or an absolute path",
                ending.program
            );
            Err(fail(FailureClass::UserError, message))
        }
        Some(Exit::NotCaged { error }) => Err(fail(FailureClass::Crash, error.clone())),
        Some(Exit::Signal { .. } | Exit::OutOfMemory { .. }) | None => Err(killed(ending)),
    }
}

/// How programs say that they may not open a file.
const REFUSED_WORDS: [&str; 4] = [
    "Permission denied",
    "PermissionError",
    "EACCES",
    "os error 13",
];

/// What a program was refused may be what the walls around it do not let it write to.
fn or_fenced(message: String, ending: &Ending<'_>) -> String {
    let is_refused = REFUSED_WORDS
        .iter()
        .any(|word| ending.stderr_tail.contains(word));
    match ending.hint.filter(|_| is_refused) {
        Some(hint) => format!("{message}; {hint}"),
        None => message,
    }
}

/// A child of ours: its status and its last word must agree.
fn judge_own(ending: &Ending<'_>) -> Result<Value, Failure> {
    let code = match &ending.exit {
        Some(Exit::Code(code)) => ExitCode(*code),
        Some(Exit::NotStarted { error } | Exit::NotCaged { error }) => {
            let message = format!("{} could not be started: {error}", ending.program);
            return Err(fail(FailureClass::Crash, message));
        }
        Some(Exit::Signal { .. } | Exit::OutOfMemory { .. }) | None => {
            // A child that said why it failed and then died on its way out did say why.
            return match &ending.word {
                Some(LastWord::Failed(failure)) => Err(failure.clone()),
                // Nobody knows whether all that it had finished was written.
                Some(LastWord::Finished { .. }) | None => Err(killed(ending)),
            };
        }
    };
    match &ending.word {
        Some(LastWord::Finished { summary }) if code == ExitCode::OK => Ok(summary.clone()),
        Some(LastWord::Failed(failure)) => Err(failure.clone()),
        Some(LastWord::Finished { .. }) => {
            let message = format!(
                "{} said it had finished, but exited with status {}",
                ending.program, code.0
            );
            Err(fail(FailureClass::Crash, with_tail(message, ending)))
        }
        None if code == ExitCode::STOPPED => {
            let message = format!(
                "{} was told to stop by someone other than its worker",
                ending.program
            );
            Err(fail(FailureClass::Crash, message))
        }
        None => {
            let message = format!(
                "{} exited with status {} without a last word",
                ending.program, code.0
            );
            Err(fail(FailureClass::Crash, with_tail(message, ending)))
        }
    }
}

fn killed(ending: &Ending<'_>) -> Failure {
    let program = ending.program;
    match &ending.exit {
        Some(Exit::OutOfMemory { how, kills }) => fail(
            FailureClass::OutOfMemory,
            match kills {
                // Counted for the whole host.
                0 => format!(
                    "{program} {how} while the kernel's out-of-memory killer was at work on this host"
                ),
                kills => format!(
                    "{program} {how} after the kernel had killed {kills} of its processes for want of memory (oom_kill of its cgroup); lower batch_size, or ask for more ranks"
                ),
            },
        ),
        Some(Exit::Signal { number, oom: true }) => fail(
            FailureClass::OutOfMemory,
            format!(
                "{program} was killed by signal {number} while the kernel's out-of-memory killer was at work on this host"
            ),
        ),
        Some(Exit::Signal { number, oom: false }) => {
            let name =
                nix::sys::signal::Signal::try_from(*number).map_or("unknown", |s| s.as_str());
            let message = format!("{program} was killed by signal {number} ({name})");
            // A killed process has no time to say why; one that aborts mostly has.
            let is_silent = *number == nix::sys::signal::Signal::SIGKILL as i32;
            let message = if is_silent {
                message
            } else {
                with_tail(message, ending)
            };
            fail(FailureClass::Crash, message)
        }
        Some(Exit::Code(_) | Exit::NotStarted { .. } | Exit::NotCaged { .. }) | None => fail(
            FailureClass::Crash,
            format!("{program} and the process that watched it were killed together"),
        ),
    }
}

fn fail(class: FailureClass, message: String) -> Failure {
    Failure { class, message }
}

fn with_tail(message: String, ending: &Ending<'_>) -> String {
    let lines: Vec<&str> = ending.stderr_tail.trim().lines().collect();
    let shown = &lines[lines.len().saturating_sub(STDERR_TAIL_LINES)..];
    // The last line first: where there is room for one line alone, it is mostly the cause.
    match shown.split_last() {
        None => message,
        Some((last, [])) => format!("{message}; stderr ends with: {last}"),
        Some((last, before)) => {
            let before = before.join("\n");
            format!("{message}; stderr ends with: {last}\nbefore that:\n{before}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(kind: JobKind, exit: Exit, word: Option<LastWord>) -> Ending<'static> {
        Ending {
            kind,
            program: "prog",
            exit: Some(exit),
            word,
            stderr_tail: "it broke\n",
            full_disk: None,
            hint: None,
        }
    }

    fn class(kind: JobKind, exit: Exit, word: Option<LastWord>) -> Option<FailureClass> {
        judge(&ending(kind, exit, word))
            .err()
            .map(|failure| failure.class)
    }

    #[test]
    fn a_command_is_judged_by_its_status_alone() {
        let word = Some(LastWord::Finished {
            summary: Value::Null,
        });
        assert_eq!(class(JobKind::Command, Exit::Code(0), None), None);
        assert_eq!(
            class(JobKind::Command, Exit::Code(3), word),
            Some(FailureClass::UserError)
        );
        let failure = judge(&ending(JobKind::Command, Exit::Code(3), None)).unwrap_err();
        assert_eq!(
            failure.message,
            "prog exited with status 3; stderr ends with: it broke"
        );
    }

    #[test]
    fn our_children_must_keep_their_word() {
        let finished = || {
            Some(LastWord::Finished {
                summary: Value::from(1),
            })
        };
        let failed = Failure {
            class: FailureClass::BadInput,
            message: "m".into(),
        };
        assert_eq!(
            judge(&ending(JobKind::Train, Exit::Code(0), finished())),
            Ok(Value::from(1))
        );
        assert_eq!(
            class(JobKind::Train, Exit::Code(0), None),
            Some(FailureClass::Crash)
        );
        assert_eq!(
            class(JobKind::Train, Exit::Code(1), finished()),
            Some(FailureClass::Crash)
        );
        let word = Some(LastWord::Failed(failed.clone()));
        assert_eq!(
            judge(&ending(JobKind::Fetch, Exit::Code(1), word)),
            Err(failed)
        );
    }

    #[test]
    fn a_kill_by_the_kernel_is_told_from_a_crash() {
        let oom = Exit::Signal {
            number: 9,
            oom: true,
        };
        assert_eq!(
            class(JobKind::Train, oom, None),
            Some(FailureClass::OutOfMemory)
        );
        let killed = judge(&ending(
            JobKind::Train,
            Exit::Signal {
                number: 9,
                oom: false,
            },
            None,
        ))
        .unwrap_err();
        assert_eq!(killed.class, FailureClass::Crash);
        assert_eq!(killed.message, "prog was killed by signal 9 (SIGKILL)");
    }

    #[test]
    fn a_kill_that_the_ranks_own_cgroup_counted_is_told_with_its_evidence() {
        let exit = Exit::OutOfMemory {
            how: "exited with status 137".into(),
            kills: 2,
        };
        for kind in [JobKind::Command, JobKind::Train] {
            let failure = judge(&ending(kind, exit.clone(), None)).unwrap_err();
            assert_eq!(failure.class, FailureClass::OutOfMemory);
            assert!(
                failure
                    .message
                    .contains("status 137 after the kernel had killed 2"),
                "{failure:?}"
            );
        }
        // 137 alone is any program's status.
        assert_eq!(
            class(JobKind::Command, Exit::Code(137), None),
            Some(FailureClass::UserError)
        );
    }

    #[test]
    fn a_librarys_last_words_name_the_class_of_a_programs_failure() {
        let of = |stderr_tail| {
            let exited = ending(JobKind::Command, Exit::Code(1), None);
            let failure = judge(&Ending {
                stderr_tail,
                ..exited
            });
            failure.unwrap_err().class
        };
        let said = [
            (
                "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
                FailureClass::OutOfMemory,
            ),
            (
                "RuntimeError: CUDA error: an illegal memory access was encountered",
                FailureClass::DeviceFault,
            ),
            (
                "RuntimeError: CUDA error: uncorrectable ECC error encountered",
                FailureClass::DeviceFault,
            ),
            (
                "torch.distributed.DistBackendError: NCCL error, ncclRemoteError: A call failed",
                FailureClass::Collective,
            ),
            (
                "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.7]:3512",
                FailureClass::Collective,
            ),
            ("KeyError: 'CUDA'", FailureClass::UserError),
        ];
        for (words, class) in said {
            assert_eq!(of(words), class, "{words}");
        }
    }

    #[test]
    fn what_a_full_disk_explains_is_called_so() {
        let of = |stderr_tail, full_disk| {
            let exited = ending(JobKind::Command, Exit::Code(1), None);
            judge(&Ending {
                stderr_tail,
                full_disk,
                ..exited
            })
            .unwrap_err()
        };
        let told = of("cp: error writing 'x': No space left on device", None);
        assert_eq!(told.class, FailureClass::DiskFull);
        let seen = of("it broke", Some(Path::new("/data")));
        assert_eq!(seen.class, FailureClass::DiskFull);
        assert!(
            seen.message.contains("status 1") && seen.message.contains("/data"),
            "{}",
            seen.message
        );
        assert_eq!(of("it broke", None).class, FailureClass::UserError);
    }

    #[test]
    fn of_a_long_stderr_the_last_lines_are_shown() {
        let tail = (1..=9).map(|n| format!("line {n}\n")).collect::<String>();
        let aborted = Exit::Signal {
            number: 6,
            oom: false,
        };
        let ending = Ending {
            stderr_tail: &tail,
            ..ending(JobKind::Train, aborted, None)
        };
        let message = judge(&ending).unwrap_err().message;
        assert!(
            message.ends_with("ends with: line 9\nbefore that:\nline 5\nline 6\nline 7\nline 8"),
            "{message}"
        );
    }
}
