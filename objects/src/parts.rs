//! Uploads in parts. Where they stand is for whoever begins them to write down: a server that is asked for it later says
//! nothing of the digest so far.

use bytes::Bytes;
use object_store::PutPayload;
use object_store::multipart::{MultipartStore as _, PartId};

use crate::store::Store;
use crate::trouble::{Kind, Trouble};

impl Store {
    /// Begins an upload, and gives its id.
    ///
    /// # Errors
    /// As each of these: no answer in time, or a refusal.
    pub async fn begin(&self, key: &str) -> Result<String, Trouble> {
        let path = self.path(key);
        let doing = "begin an upload";
        // Where the answer is lost, an upload is left that nobody knows here. It is given up by
        // what the server itself lists of unfinished ones (`unfinished`).
        let begun = self
            .small(doing, self.for_small().create_multipart(&path))
            .await?;
        begun.ok_or_else(|| {
            let why = "there is no such bucket; make it, or correct s3.bucket";
            self.trouble(Kind::Refused, doing, why)
        })
    }

    /// Sends part `index`, counted from 0, and gives its tag. None: the upload is over.
    pub async fn put_part(
        &self,
        key: &str,
        upload: &str,
        index: usize,
        chunks: Vec<Bytes>,
    ) -> Result<Option<String>, Trouble> {
        let (path, upload) = (self.path(key), upload.to_owned());
        // Tries share its bytes: a clone of it is a count.
        let payload = PutPayload::from_iter(chunks);
        let bytes = payload.content_length() as u64;
        let sent = self.large("send a part", bytes, || {
            self.for_large()
                .put_part(&path, &upload, index, payload.clone())
        });
        Ok(sent.await?.map(|part| part.content_id))
    }

    /// Makes the parts with these tags the object. False: the upload is over, which it also is when an earlier try was
    /// heard and its answer was not.
    pub async fn complete(
        &self,
        key: &str,
        upload: &str,
        tags: &[String],
    ) -> Result<bool, Trouble> {
        let (path, upload) = (self.path(key), upload.to_owned());
        let parts = || {
            let part = |tag: &String| PartId {
                content_id: tag.clone(),
            };
            tags.iter().map(part).collect()
        };
        // As for 64 MiB: servers put the parts together before they answer.
        let done = self.large("put parts together", COMPLETE_BYTES, || {
            self.for_large().complete_multipart(&path, &upload, parts())
        });
        Ok(done.await?.is_some())
    }

    /// Gives up an upload. One that is over is no error.
    pub async fn abort(&self, key: &str, upload: &str) -> Result<(), Trouble> {
        let (path, upload) = (self.path(key), upload.to_owned());
        self.small(
            "give up an upload",
            self.for_small().abort_multipart(&path, &upload),
        )
        .await?;
        Ok(())
    }
}

/// As how many bytes putting parts together counts, when it is waited for.
const COMPLETE_BYTES: u64 = 64 * 1024 * 1024;
