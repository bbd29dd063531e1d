//! The daily export: the list of all films, one JSON object a line, compressed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use chrono::{Days, NaiveDate};
use flate2::read::GzDecoder;

use super::answers::ExportLine;
use crate::fetch::address::Base;
use crate::fetch::answer::NoAnswer;
use crate::fetch::client::PoliteClient;
use crate::fetch::miss::MissClass;
use crate::fetch::tolerant;
use crate::job::JobError;

/// Today's file is there from about 08:00 UTC on; older ones stay for three months. A week back
/// covers an outage on the service's side.
const DAYS_BACK: u64 = 7;
/// Bytes of the compressed file. TMDb's has about 25 MB.
const EXPORT_MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Bytes of one line.
const LINE_MAX_BYTES: u64 = 64 * 1024;
/// Lines of the file: a hundred times the largest catalogue. A small file can unpack to any number.
const LINES_MAX: u64 = 100_000_000;

/// One line of the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Film(ExportLine),
    /// Line `0` (from 1) is no film.
    Unreadable(u64),
}

/// Gets the newest export of at most [`DAYS_BACK`] days before `today` into the file `to`.
pub(super) async fn newest(
    client: &PoliteClient,
    base: &Base,
    today: NaiveDate,
    to: &Path,
) -> Result<(), JobError> {
    // The newest first: on most days, and most hours, that is one request.
    for back in 0..=DAYS_BACK {
        let Some(day) = today.checked_sub_days(Days::new(back)) else {
            break;
        };
        let name = format!("movie_ids_{}.json.gz", day.format("%m_%d_%Y"));
        let url = base.join(&name);
        match client.download(url, EXPORT_MAX_BYTES, to).await {
            Ok(()) => return Ok(()),
            Err(NoAnswer::Gone { .. }) => {}
            // Stores of files answer 403 for a file that is not there.
            Err(NoAnswer::Failed {
                class: MissClass::Http(403),
                ..
            }) => {}
            Err(
                NoAnswer::Failed { detail, .. }
                | NoAnswer::Unauthorized { detail }
                | NoAnswer::Down { detail },
            ) => {
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

/// Gives up to `limit` lines of the export in `file` to `sink`, one by one: the whole of it may be
/// larger than memory.
pub(super) fn lines(
    file: &Path,
    limit: u64,
    sink: impl FnMut(Line) -> io::Result<()>,
) -> Result<(), String> {
    let file = File::open(file).map_err(|error| error.to_string())?;
    lines_of(file, limit, sink)
}

fn lines_of(
    file: impl Read,
    limit: u64,
    mut sink: impl FnMut(Line) -> io::Result<()>,
) -> Result<(), String> {
    let mut lines = BufReader::new(GzDecoder::new(BufReader::new(file)));
    let (mut line, mut number, mut given) = (Vec::new(), 0, 0);
    while given < limit {
        line.clear();
        let read = (&mut lines)
            .take(LINE_MAX_BYTES)
            .read_until(b'\n', &mut line);
        if read.map_err(|error| error.to_string())? == 0 {
            break;
        }
        number += 1;
        // A line that was cut at the limit would else be read as two, and the second half as
        // another film.
        if line.len() as u64 == LINE_MAX_BYTES && !line.ends_with(b"\n") {
            return Err(format!(
                "line {number} is longer than {LINE_MAX_BYTES} bytes"
            ));
        }
        if number > LINES_MAX {
            return Err(format!("it has more than {LINES_MAX} lines"));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        given += 1;
        let read = tolerant::read::<ExportLine>(&line);
        sink(read.map_or(Line::Unreadable(number), Line::Film))
            .map_err(|error| error.to_string())?;
    }
    Ok(())
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
        let film = |id, adult| Line::Film(ExportLine { id, adult });
        assert_eq!(
            read(&packed(text), u64::MAX).unwrap(),
            [
                film(3924, false),
                Line::Unreadable(2),
                film(3924, false),
                film(5, true)
            ]
        );
        assert_eq!(read(&packed(text), 1).unwrap().len(), 1);
    }

    fn read(file: &[u8], limit: u64) -> Result<Vec<Line>, String> {
        let mut lines = Vec::new();
        lines_of(file, limit, |line| {
            lines.push(line);
            Ok(())
        })?;
        Ok(lines)
    }

    #[test]
    fn a_cut_file_or_an_endless_line_is_an_error() {
        let whole = packed(&"{\"id\":1}\n".repeat(1000));
        assert!(read(&whole[..whole.len() / 2], u64::MAX).is_err());
        assert!(read(&packed(&"x".repeat(100_000)), u64::MAX).is_err());
    }
}
