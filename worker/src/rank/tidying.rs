//! A rank under another account whose keeper could not see it to its end, as when the host lost its power: what it left
//! is closed to the worker, who has to remove it. One more child under the same account, which does nothing, has its
//! warden open it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tracing::warn;

use super::prepare::{end, news_of};
use super::task::RankTask;
use crate::files;
use crate::process::cage::Cage;
use crate::process::keeper::exit_path;
use crate::process::kept::newest_claim;
use crate::process::launcher::{Child, Launch, Status};

/// As long as a keeper waits for its warden's, and some for the host to be busy.
const TIDY_MAX: Duration = Duration::from_secs(150);

impl RankTask {
    /// Opens what is left of such a rank, before its folder is removed.
    pub(crate) async fn tidy_up(&self) {
        let tidied = match self.begin_to_tidy() {
            Ok(Some(child)) => wait_for(child).await,
            Ok(None) => return,
            Err(error) => Err(error),
        };
        if let Err(error) = tidied {
            warn!(rank = %self.rank.key, %error, "what the rank left under another account may stay on the disk");
        }
    }

    fn begin_to_tidy(&self) -> io::Result<Option<Box<dyn Child>>> {
        let dir = &self.rank.dir;
        let (Some(cage), Some((launch, _))) = (
            files::read_json::<Cage>(&dir.cage())?,
            newest_claim(dir.path())?,
        ) else {
            return Ok(None);
        };
        // To leave one is the last that a keeper does.
        if exit_path(dir.path(), launch).exists() {
            return Ok(None);
        }
        let left: Vec<PathBuf> = cage.left.into_iter().filter(|path| path.exists()).collect();
        let folder = dir.tidying();
        files::make_new_folder(&folder)?;
        let launch = Launch {
            dir: &folder,
            work_dir: dir.path(),
            argv: vec!["true".into()],
            env: self.host.base_env.own(),
            events: false,
            fence: None,
            cage: Some(Cage {
                owned: left.clone(),
                left,
                ..cage
            }),
            tasks_max: self.host.config.tasks_max,
        };
        self.host.env.launcher.start(&launch).map(Some)
    }
}

async fn wait_for(mut child: Box<dyn Child>) -> io::Result<()> {
    let gone = async {
        while matches!(child.status()?, Status::Starting | Status::Running) {
            news_of(child.as_mut()).await;
        }
        Ok(())
    };
    match tokio::time::timeout(TIDY_MAX, gone).await {
        Ok(gone) => gone,
        Err(_) => {
            end(child).await;
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}
