//! Uploads that somebody began and did not finish. The crate does not ask for them, so this does, with the crate's own
//! signature.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpRequest, HttpRequestBody};
use serde::Deserialize;

use crate::store::Store;
use crate::trouble::{Kind, Trouble};

/// Pages of the listing, of 1,000 uploads each. More are found the next time.
const PAGES_MAX: usize = 1_000;
const DOING: &str = "list unfinished uploads";

/// An upload that is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Without the place's prefix.
    pub key: String,
    pub upload: String,
    /// By the server's clock.
    pub begun: DateTime<Utc>,
}

impl Store {
    /// The unfinished uploads of a folder, such as `blobs`.
    ///
    /// # Errors
    /// No answer in time, a refusal, or a server that keeps no such list.
    pub async fn unfinished(&self, folder: &str) -> Result<Vec<Unfinished>, Trouble> {
        self.unfinished_from(&format!("{folder}/")).await
    }

    /// Whether an upload can go on. A server that keeps no such list is believed to have it.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn is_unfinished(&self, key: &str, upload: &str) -> Result<bool, Trouble> {
        match self.unfinished_from(key).await {
            Ok(found) => Ok(found.iter().any(|one| one.upload == upload)),
            // Where it is over all the same, most servers answer the next part so.
            Err(trouble) if trouble.kind == Kind::Refused => Ok(true),
            Err(trouble) => Err(trouble),
        }
    }

    async fn unfinished_from(&self, start: &str) -> Result<Vec<Unfinished>, Trouble> {
        let prefix = self.place().key(start);
        let skipped = prefix.len() - start.len();
        let mut found = Vec::new();
        let mut after = None;
        for _ in 0..PAGES_MAX {
            let page = self.page(&prefix, after.as_ref()).await?;
            found.extend(page.uploads.into_iter().filter_map(|one| {
                // What lies elsewhere is not ours, whatever the server says.
                let key = one.key.starts_with(&prefix).then(|| &one.key[skipped..])?;
                Some(Unfinished {
                    key: key.to_owned(),
                    upload: one.upload,
                    begun: one.begun,
                })
            }));
            match (page.is_truncated, page.next_key, page.next_upload) {
                (true, Some(key), upload) => after = Some((key, upload.unwrap_or_default())),
                // Also one that has more and does not say from where on: asked again, it would give
                // the same page.
                _ => break,
            }
        }
        Ok(found)
    }

    async fn page(&self, prefix: &str, after: Option<&(String, String)>) -> Result<Page, Trouble> {
        let place = self.place();
        let mut url = format!(
            "{}/?max-uploads=1000&prefix={}&uploads=",
            place.url(),
            escaped(prefix)
        );
        if let Some((key, upload)) = after {
            url.push_str(&format!(
                "&key-marker={}&upload-id-marker={}",
                escaped(key),
                escaped(upload)
            ));
        }
        // The address is whole by now: path and query are part of what is signed.
        let wrong = |why: &str| self.trouble(Kind::Refused, DOING, why);
        let credential = self.credentials().get().map_err(|why| wrong(&why))?;
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url
            .parse()
            .map_err(|_| wrong("s3.endpoint makes no address"))?;
        AwsAuthorizer::new(&credential, "s3", &place.region)
            .try_authorize(&mut request, None)
            .map_err(|error| Trouble::of(place, DOING, &error))?;
        let asked = async {
            let answer = self.client().execute(request).await.map_err(gone)?;
            let status = answer.status();
            let body = answer.into_body().bytes().await.map_err(gone)?;
            Ok((status, body))
        };
        let Some((status, body)) = self.small(DOING, asked).await? else {
            // Never: what the crate calls "not found" is a status here, and is judged below.
            return Ok(Page::default());
        };
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body);
            return Err(Trouble::answer(place, DOING, status.as_u16(), &text));
        }
        read(&body).ok_or_else(|| wrong("the server's answer cannot be read"))
    }
}

fn gone(error: object_store::client::HttpError) -> object_store::Error {
    // As the crate wraps its own, so that one function finds the words for both.
    object_store::Error::Generic {
        store: "S3",
        source: Box::new(error),
    }
}

fn read(body: &Bytes) -> Option<Page> {
    quick_xml::de::from_reader(&**body).ok()
}

#[derive(Debug, Default, Deserialize)]
struct Page {
    #[serde(rename = "Upload", default)]
    uploads: Vec<Row>,
    // Each server says it. Without a field that must be there any page of a proxy would pass for an empty list.
    #[serde(rename = "IsTruncated")]
    is_truncated: bool,
    #[serde(rename = "NextKeyMarker")]
    next_key: Option<String>,
    #[serde(rename = "NextUploadIdMarker")]
    next_upload: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Row {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "UploadId")]
    upload: String,
    #[serde(rename = "Initiated")]
    begun: DateTime<Utc>,
}

/// As a value in a query, in the form that signatures are made of.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_servers_write_it() {
        let page = "<?xml version=\"1.0\"?><ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
            <Bucket>b</Bucket><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>\
            <Upload><Key>p/blobs/aa/x</Key><UploadId>u/1=</UploadId><Initiator><ID>1</ID></Initiator>\
            <Initiated>2026-11-10T20:48:33.000Z</Initiated></Upload>\
            <Upload><Key>p/blobs/bb/y</Key><UploadId>2</UploadId><Initiated>2026-11-10T20:48:33Z</Initiated></Upload>\
            </ListMultipartUploadsResult>";
        let page = read(&Bytes::from_static(page.as_bytes())).expect("it is a page");
        assert_eq!(page.uploads.len(), 2);
        assert_eq!(page.uploads[0].upload, "u/1=");
        assert!(page.is_truncated && page.next_key.as_deref() == Some("k"));
        let empty = b"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>";
        let empty = Bytes::from_static(empty);
        assert!(read(&empty).expect("it is a page").uploads.is_empty());
        for other in [&b"<html>hello"[..], b"<html><body>hello</body></html>", b""] {
            assert!(read(&Bytes::from_static(other)).is_none());
        }
    }

    #[test]
    fn a_value_of_a_query_is_escaped_as_signatures_want_it() {
        assert_eq!(escaped("a/b c+d=~é"), "a%2Fb%20c%2Bd%3D~%C3%A9");
    }
}
