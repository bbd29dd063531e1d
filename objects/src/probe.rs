//! Whether a bucket does all that is asked of it: tried with an object of its own, which goes at the end.

use bytes::Bytes;
use uuid::Uuid;

use crate::store::Store;
use crate::trouble::{Kind, Trouble};

/// What a try found that is not as it should be, and stops nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probed {
    pub warnings: Vec<String>,
}

impl Store {
    /// Writes an object, reads it, looks for it, lists, begins an upload in parts and gives it up, and deletes what it
    /// wrote.
    ///
    /// # Errors
    /// The first of these that did not work, with the way out.
    pub async fn probe(&self) -> Result<Probed, Trouble> {
        // One of its own: two that try the same bucket at once would read and delete each other's.
        let key = format!("probe/{}", Uuid::new_v4().simple());
        let tried = self.try_all(&key).await;
        // Also where something of it did not work: a probe leaves nothing.
        let deleted = self.delete(vec![key]).await;
        let probed = tried?;
        deleted?;
        Ok(probed)
    }

    async fn try_all(&self, key: &str) -> Result<Probed, Trouble> {
        let mut probed = Probed::default();
        let said = Bytes::from(format!("{key}\n").repeat(20));
        self.put(key, vec![said.clone()]).await?;
        let doing = "try what it does";
        let wrong = |why: &str| self.trouble(Kind::Refused, doing, why);
        match self.get(key).await? {
            Some((read, _)) if read == said => {}
            Some(_) => return Err(wrong("it gives back other bytes than were written")),
            None => return Err(wrong("what was written is not there")),
        }
        let found = self.head(key).await?;
        let Some(found) = found.filter(|found| found.size_bytes == said.len() as u64) else {
            return Err(wrong("it says another size than was written"));
        };
        // From the middle: a server that knows no ranges begins at the first byte, and is found
        // out.
        let part = self.get_range(key, 3..9, &found.etag).await?;
        if part.as_deref() != said.get(3..9) {
            return Err(wrong(
                "it does not give the part of an object that is asked for",
            ));
        }
        let mut listed = self.list("probe");
        let mut is_listed = false;
        while let Some(listed) = futures::StreamExt::next(&mut listed).await {
            is_listed |= listed?.key == key;
        }
        if !is_listed {
            return Err(wrong("what was written is not in its list"));
        }
        // The object is there by now, so this is to be refused.
        if self.create(key, said.clone()).await? {
            probed.warnings.push(
                "it writes over an object that was to be written only where none is (If-None-Match): two clusters that begin with one bucket at the same instant would not notice each other".to_owned(),
            );
        }
        let upload = self.begin(key).await?;
        self.abort(key, &upload).await?;
        // No error: without that list uploads go on, and only those that a killed coordinator wrote
        // down nowhere are not found.
        if let Err(trouble) = self.unfinished("probe").await {
            probed.warnings.push(format!(
                "{trouble}; uploads that a killed coordinator left may stay: let the server remove them, by a rule for unfinished uploads"
            ));
        }
        Ok(probed)
    }
}
