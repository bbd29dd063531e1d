//! The daily export: the list of all films, one JSON object a line, compressed.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};

use chrono::{Days, NaiveDate};
use flate2::read::GzDecoder;

use super::address::Base;
use super::answers::ExportLine;
use super::http::{NoAnswer, PoliteClient};
use crate::job::JobError;

/// Today's file is there from about 08:00 UTC on; older ones stay for three months. A week back
/// covers an outage on the service's side.
const DAYS_BACK: u64 = 7;
/// Bytes of the compressed file. TMDb's has about 25 MB.
const EXPORT_MAX_BYTES: usize = 1024 * 1024 * 1024;
/// Bytes of one line.
const LINE_MAX_BYTES: u64 = 64 * 1024;

/// One entry of the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Film(ExportLine),
    /// The id came before.
    Duplicate(i64),
    /// Line `0` (from 1) is no entry.
    Unreadable(u64),
}

/// Gets the newest export of at most [`DAYS_BACK`] days before `today` and reads up to `limit`
/// entries.
pub(super) async fn newest(
    client: &PoliteClient,
    base: &Base,
    today: NaiveDate,
    limit: Option<u64>,
) -> Result<Vec<Entry>, JobError> {
    for back in 0..=DAYS_BACK {
        let Some(day) = today.checked_sub_days(Days::new(back)) else {
            break;
        };
        let name = format!("movie_ids_{}.json.gz", day.format("%m_%d_%Y"));
        let url = base.join(&name);
        match client.export(url, EXPORT_MAX_BYTES).await {
            Ok(file) => {
                return entries(file.as_slice(), limit).map_err(|problem| {
                    JobError::network(format!("the export {name} of {base} is damaged: {problem}"))
                });
            }
            Err(NoAnswer::Gone { .. }) => {}
            // Stores of files answer 403 for a file that is not there.
            Err(NoAnswer::Failed { class, .. }) if class == "http_403" => {}
            Err(NoAnswer::Failed { detail, .. } | NoAnswer::Unauthorized { detail }) => {
                return Err(JobError::network(format!(
                    "the export {name} of {base} cannot be had: {detail}"
                )));
            }
        }
    }
    Err(JobError::user(format!(
        "{base} has no export movie_ids_MM_DD_YYYY.json.gz of {today} or the {DAYS_BACK} days before; check export_url"
    )))
}

fn entries(file: impl Read, limit: Option<u64>) -> Result<Vec<Entry>, String> {
    let mut lines = BufReader::new(GzDecoder::new(file));
    let (mut entries, mut seen, mut line) = (Vec::new(), HashSet::new(), Vec::new());
    let limit = limit.unwrap_or(u64::MAX);
    let mut number = 0;
    while (entries.len() as u64) < limit {
        line.clear();
        let read = (&mut lines)
            .take(LINE_MAX_BYTES)
            .read_until(b'\n', &mut line);
        if read.map_err(|error| error.to_string())? == 0 {
            break;
        }
        number += 1;
        if line.len() as u64 == LINE_MAX_BYTES && !line.ends_with(b"\n") {
            return Err(format!(
                "line {number} is longer than {LINE_MAX_BYTES} bytes"
            ));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        entries.push(match serde_json::from_slice::<ExportLine>(&line) {
            Ok(film) if seen.insert(film.id) => Entry::Film(film),
            Ok(film) => Entry::Duplicate(film.id),
            Err(_) => Entry::Unreadable(number),
        });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn packed(text: &str) -> Vec<u8> {
        let mut file = GzEncoder::new(Vec::new(), Compression::fast());
        file.write_all(text.as_bytes()).unwrap();
        file.finish().unwrap()
    }

    #[test]
    fn every_line_is_an_entry_whatever_it_holds() {
        let text = "{\"adult\":false,\"id\":3924,\"popularity\":2.405}\nnot json\n\n{\"id\":3924}\n{\"adult\":true,\"id\":5}";
        let film = |id, adult| Entry::Film(ExportLine { id, adult });
        assert_eq!(
            entries(packed(text).as_slice(), None).unwrap(),
            [
                film(3924, false),
                Entry::Unreadable(2),
                Entry::Duplicate(3924),
                film(5, true)
            ]
        );
        assert_eq!(entries(packed(text).as_slice(), Some(1)).unwrap().len(), 1);
    }

    #[test]
    fn a_cut_file_or_an_endless_line_is_an_error() {
        let whole = packed(&"{\"id\":1}\n".repeat(1000));
        assert!(entries(&whole[..whole.len() / 2], None).is_err());
        assert!(entries(packed(&"x".repeat(100_000)).as_slice(), None).is_err());
    }
}
