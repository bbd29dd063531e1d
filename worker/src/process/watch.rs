//! News of the files in a child's folder, from inotify: one instance for the whole daemon, one watch
//! a folder.
//!
//! Only a hint, never the truth: an event may be missing (a network file system, the kernel's limit
//! of watches), so whoever waits here also looks now and then.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, Event, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::launcher::News;
use super::readable;

/// Rest after each reading. While events are not read the kernel folds equal ones into one, so that
/// a child that writes a line at a time does not cost a reading a line.
const REST: Duration = Duration::from_millis(5);
/// Room for the events of one reading: some hundred.
const EVENT_BYTES: usize = 8 * 1024;

/// How often something happened in a folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Rings {
    state: u64,
    output: u64,
}

/// All watched folders.
#[derive(Debug)]
pub(super) struct Watches {
    inotify: Arc<AsyncFd<OwnedFd>>,
    rooms: Mutex<BTreeMap<i32, Room>>,
}

#[derive(Debug)]
struct Room {
    bell: watch::Sender<Rings>,
    /// The kernel has one watch for a folder, however many wait for it.
    users: usize,
}

/// Waits for news of one folder.
#[derive(Debug)]
pub(super) struct FolderWatch {
    watches: Arc<Watches>,
    descriptor: i32,
    bell: watch::Receiver<Rings>,
    heard: Rings,
}

impl Watches {
    /// None where the kernel gives no more instances of inotify. The caller runs inside the runtime.
    pub(super) fn new() -> Option<Arc<Self>> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        let inotify = inotify
            .map_err(io::Error::from)
            .and_then(readable)
            .inspect_err(|error| {
                warn!(%error, "no inotify: children's output is looked for, not waited for; see fs.inotify.max_user_instances");
            })
            .ok()?;
        let watches = Arc::new(Self {
            inotify: Arc::new(inotify),
            rooms: Mutex::default(),
        });
        tokio::spawn(listen(
            Arc::clone(&watches.inotify),
            Arc::downgrade(&watches),
        ));
        Some(watches)
    }

    /// None where the kernel has no watch left, or the folder cannot be watched.
    pub(super) fn watch(self: &Arc<Self>, folder: &Path) -> Option<FolderWatch> {
        let events = WatchFlags::MODIFY | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        // Locked around both, so that nobody takes the kernel's watch away in between.
        let mut rooms = self.rooms();
        let added = inotify::add_watch(self.inotify.get_ref(), folder, events);
        let descriptor = added
            .inspect_err(|error| {
                debug!(?folder, %error, "the folder is not watched but looked at; see fs.inotify.max_user_watches");
            })
            .ok()?;
        let room = rooms.entry(descriptor).or_insert_with(|| Room {
            bell: watch::Sender::default(),
            users: 0,
        });
        room.users += 1;
        let bell = room.bell.subscribe();
        let heard = *bell.borrow();
        Some(FolderWatch {
            watches: Arc::clone(self),
            descriptor,
            bell,
            heard,
        })
    }

    fn ring(&self, event: &Event<'_>) {
        let rooms = self.rooms();
        if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
            // Events were lost: everybody looks.
            let all = Rings {
                state: 1,
                output: 1,
            };
            rooms.values().for_each(|room| room.add(all));
            return;
        }
        let name = event.file_name().and_then(|name| name.to_str().ok());
        if let (Some(room), Some(rings)) = (rooms.get(&event.wd()), name.and_then(rings)) {
            room.add(rings);
        }
    }

    /// Passes on all events that wait.
    fn drain(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut reader = Reader::new(self.inotify.get_ref(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => self.ring(&event),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn rooms(&self) -> MutexGuard<'_, BTreeMap<i32, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    fn add(&self, more: Rings) {
        self.bell.send_modify(|rings| {
            rings.state += more.state;
            rings.output += more.output;
        });
    }
}

/// What a change of the file `name` means; None for files that the daemon writes itself, and for exit
/// files: while their keeper lives they are not looked at, and its end is told otherwise.
fn rings(name: &str) -> Option<Rings> {
    if matches!(name, "stdout" | "stderr" | "events") {
        Some(Rings {
            state: 0,
            output: 1,
        })
    } else if name.starts_with("claim-") && name.ends_with(".json") {
        Some(Rings {
            state: 1,
            output: 0,
        })
    } else {
        None
    }
}

/// Reads events for as long as somebody has the watches.
async fn listen(inotify: Arc<AsyncFd<OwnedFd>>, watches: Weak<Watches>) {
    while let Ok(mut ready) = inotify.readable().await {
        // Before the reading, so that what comes after it is told again.
        ready.clear_ready();
        let Some(watches) = watches.upgrade() else {
            return;
        };
        if let Err(error) = watches.drain() {
            warn!(%error, "inotify's events cannot be read");
        }
        drop(watches);
        tokio::time::sleep(REST).await;
    }
}

impl FolderWatch {
    /// Waits for the next news. Of both kinds, the state's goes first.
    pub(super) async fn next(&mut self) -> News {
        loop {
            let now = *self.bell.borrow_and_update();
            if now.state != self.heard.state {
                self.heard.state = now.state;
                return News::State;
            }
            if now.output != self.heard.output {
                self.heard.output = now.output;
                return News::Output;
            }
            // With nobody left to ring, the looks that come without a cause have to do.
            if self.bell.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for FolderWatch {
    fn drop(&mut self) {
        let mut rooms = self.watches.rooms();
        if let Some(room) = rooms.get_mut(&self.descriptor) {
            room.users -= 1;
            if room.users == 0 {
                rooms.remove(&self.descriptor);
                // A folder that was removed took its watch along.
                let inotify = self.watches.inotify.get_ref();
                let _gone_already = inotify::remove_watch(inotify, self.descriptor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write as _;

    fn append(path: &Path, text: &str) {
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[tokio::test]
    async fn output_and_state_are_told_apart_and_other_files_are_no_news() {
        let dir = tempfile::tempdir().unwrap();
        let watches = Watches::new().unwrap();
        let mut watch = watches.watch(dir.path()).unwrap();
        append(&dir.path().join("spool"), "ours");
        append(&dir.path().join("stdout"), "line");
        assert_eq!(watch.next().await, News::Output);
        fs::write(dir.path().join("claim-1.new"), "{}").unwrap();
        fs::rename(
            dir.path().join("claim-1.new"),
            dir.path().join("claim-1.json"),
        )
        .unwrap();
        assert_eq!(watch.next().await, News::State);
        let more = tokio::time::timeout(Duration::from_millis(50), watch.next()).await;
        assert!(more.is_err(), "{more:?}");
    }

    #[tokio::test]
    async fn two_may_wait_for_one_folder_and_the_last_one_takes_the_watch_away() {
        let dir = tempfile::tempdir().unwrap();
        let watches = Watches::new().unwrap();
        let first = watches.watch(dir.path()).unwrap();
        let mut second = watches.watch(dir.path()).unwrap();
        assert_eq!(watches.rooms().len(), 1);
        drop(first);
        append(&dir.path().join("stderr"), "line");
        assert_eq!(second.next().await, News::Output);
        fs::remove_dir_all(dir.path()).unwrap();
        drop(second);
        assert!(watches.rooms().is_empty());
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_not_watched() {
        let watches = Watches::new().unwrap();
        assert!(watches.watch(Path::new("/no/such/folder")).is_none());
    }
}
