//! What is left in a bucket and nobody goes on with: uploads in parts, which servers keep and charge for until somebody
//! gives them up, and what was written of removals long ago.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use marquee_objects::{Kind, Listed};

use super::Bucket;
use super::begun::Begun;
use crate::blobs::BlobError;

impl Bucket {
    pub(in crate::blobs) async fn sweep(&self, before: DateTime<Utc>) -> Result<u64, BlobError> {
        let mut count = 0;
        let mut goes_on = HashSet::new();
        let listed: Vec<Listed> = self.store.list("uploads").try_collect().await?;
        for one in listed {
            let text = self.store.get(&one.key).await?;
            let begun = text.and_then(|(text, _)| serde_json::from_slice::<Begun>(&text).ok());
            // The time of its last part: a large file over a slow line takes days.
            if one.modified >= before {
                goes_on.extend(begun.map(|begun| begun.upload));
                continue;
            }
            if let Some(begun) = begun {
                self.store.abort(&begun.key, &begun.upload).await?;
                count += 1;
            }
            self.store.delete(vec![one.key]).await?;
        }
        // After those that are written down: one of these that goes on is no orphan, however long
        // ago it began.
        count += self.give_up_orphans(before, &goes_on).await?;
        let probes: Vec<Listed> = self.store.list("probe").try_collect().await?;
        let old = probes.into_iter().filter(|one| one.modified < before);
        self.store.delete(old.map(|one| one.key).collect()).await?;
        // Far longer than any process stays stopped, which its watchdog ends after 30 s: no delete comes so late.
        self.forget_going(before).await?;
        if count > 0 {
            tracing::info!(uploads = count, bucket = %self.store.place(), "unfinished uploads were given up");
        }
        Ok(count)
    }

    /// Those that a killed process began and wrote down nowhere.
    async fn give_up_orphans(
        &self,
        before: DateTime<Utc>,
        goes_on: &HashSet<String>,
    ) -> Result<u64, BlobError> {
        let unfinished = match self.store.unfinished("blobs").await {
            Ok(unfinished) => unfinished,
            // It keeps no such list: a rule of the server's has to do it (docs/object-stores.md).
            Err(trouble) if trouble.kind == Kind::Refused => {
                tracing::warn!("{trouble}; unfinished uploads of killed coordinators stay there");
                return Ok(0);
            }
            Err(trouble) => return Err(trouble.into()),
        };
        let mut count = 0;
        for one in unfinished {
            if one.begun < before && !goes_on.contains(&one.upload) {
                self.store.abort(&one.key, &one.upload).await?;
                count += 1;
            }
        }
        Ok(count)
    }
}
