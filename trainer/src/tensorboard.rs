//! TensorBoard event files: scalars only.
//!
//! A file is a sequence of records; each frames one protobuf `Event` with its length and two masked
//! CRC-32C sums (TensorFlow's `core/lib/io/record_writer`, `core/util/event.proto`). TensorBoard
//! shows every file below a run's folder whose name contains `tfevents`.
//! Not here: images, histograms, PR curves.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::error::RunError;

/// What the first record of a file says.
const FILE_VERSION: &str = "brain.Event:2";
/// Events that wait for the disk, some hundred bytes each; beyond them training waits too.
const AHEAD_MAX: usize = 4_096;

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// An event file that is being written.
#[derive(Debug)]
struct EventFile {
    file: File,
}

impl EventFile {
    /// Starts an event file in the folder `dir`, which is made if it is not there.
    fn create(dir: &Path) -> Result<Self, RunError> {
        let failed = |error: io::Error| {
            RunError::host(format!(
                "cannot write TensorBoard files into {}: {error}",
                dir.display()
            ))
        };
        let now = seconds_since_1970();
        let host = nix::unistd::gethostname().unwrap_or_default();
        let name = format!(
            "events.out.tfevents.{:010.0}.{}.{}.0",
            now.floor(),
            host.display(),
            std::process::id()
        );
        fs::create_dir_all(dir).map_err(failed)?;
        let mut events = Self {
            file: File::create(dir.join(name)).map_err(failed)?,
        };
        let version = Event {
            wall_time: now,
            step: 0,
            file_version: Some(FILE_VERSION.to_owned()),
            summary: None,
        };
        events.append(&version).map_err(failed)?;
        Ok(events)
    }

    /// Appends an event.
    fn write(&mut self, event: &Event) -> Result<(), RunError> {
        self.append(event)
            .map_err(|error| RunError::host(format!("cannot write a TensorBoard file: {error}")))
    }

    fn append(&mut self, event: &Event) -> io::Result<()> {
        self.file.write_all(&record(&event.encode_to_vec()))
    }
}

/// An event file that a thread of its own writes, so that training waits for no disk.
#[derive(Debug)]
pub(crate) struct Board {
    values: Option<SyncSender<Event>>,
    thread: Option<JoinHandle<Result<(), RunError>>>,
}

impl Board {
    /// Starts an event file in the folder `dir`.
    pub(crate) fn create(dir: &Path) -> Result<Self, RunError> {
        let mut file = EventFile::create(dir)?;
        let (values, events) = sync_channel::<Event>(AHEAD_MAX);
        let thread = thread::Builder::new()
            .name("tensorboard".to_owned())
            .spawn(move || events.iter().try_for_each(|event| file.write(&event)))
            .map_err(|error| {
                RunError::host(format!("cannot start the TensorBoard thread: {error}"))
            })?;
        Ok(Self {
            values: Some(values),
            thread: Some(thread),
        })
    }

    /// Hands values of one step over. An earlier failure to write is this call's error.
    pub(crate) fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), RunError> {
        let event = scalars(step, values);
        match &self.values {
            Some(sender) if sender.send(event).is_ok() => Ok(()),
            // Nobody takes events any more, so the thread has ended, and closing returns why.
            Some(_) | None => self.close(),
        }
    }

    /// Waits until all is written.
    pub(crate) fn close(&mut self) -> Result<(), RunError> {
        drop(self.values.take());
        match self.thread.take() {
            Some(thread) => thread
                .join()
                .map_err(|_| RunError::host("the TensorBoard thread panicked"))?,
            None => Ok(()),
        }
    }
}

/// An event with values of one step, of this moment.
fn scalars(step: u64, values: &[(&str, f64)]) -> Event {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the format holds f32; curves need no more"
    )]
    let value = values
        .iter()
        .map(|(tag, value)| Value {
            tag: (*tag).to_owned(),
            simple_value: Some(*value as f32),
        })
        .collect();
    Event {
        wall_time: seconds_since_1970(),
        step: step.cast_signed(),
        file_version: None,
        summary: Some(Summary { value }),
    }
}

fn seconds_since_1970() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}

/// Frames `data` as one record.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_crc(&length).to_le_bytes());
    record.extend_from_slice(data);
    record.extend_from_slice(&masked_crc(data).to_le_bytes());
    record
}

/// CRC-32C, rotated and shifted: a sum over data that holds sums of its own would be weak.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_headers_match_tensorflows() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
        let first = record(&[0; 24]);
        assert_eq!(
            first[..12],
            [0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]
        );
    }

    /// Splits a file into its records' data, checking every sum.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length =
                usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
            assert_eq!(bytes[8..12], masked_crc(&bytes[..8]).to_le_bytes());
            let data = &bytes[12..12 + length];
            assert_eq!(
                bytes[12 + length..16 + length],
                masked_crc(data).to_le_bytes()
            );
            found.push(data.to_vec());
            bytes = &bytes[16 + length..];
        }
        found
    }

    #[test]
    fn a_file_holds_its_version_and_then_the_values() {
        let folder = tempfile::tempdir().unwrap();
        let mut board = Board::create(folder.path()).unwrap();
        board
            .scalars(12, &[("train/loss", 0.25), ("train/lr", 1e-3)])
            .unwrap();
        board.close().unwrap();
        let path = fs::read_dir(folder.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        assert!(path.to_string_lossy().contains("tfevents"));

        let records = records(&fs::read(path).unwrap());
        let first = Event::decode(records[0].as_slice()).unwrap();
        assert_eq!(
            records[0].len(),
            24,
            "a double, no step, and a text of 13 bytes"
        );
        assert_eq!(first.file_version.as_deref(), Some("brain.Event:2"));
        // Field 5 (summary), field 1 (value), field 1 (tag): bytes as TensorBoard's schema has them.
        assert_eq!(records[1][9..11], [0x10, 12]);
        assert_eq!(records[1][11], 5 << 3 | 2);
        let second = Event::decode(records[1].as_slice()).unwrap();
        let values = second.summary.unwrap().value;
        assert_eq!((second.step, values.len()), (12, 2));
        assert_eq!(
            (values[0].tag.as_str(), values[0].simple_value),
            ("train/loss", Some(0.25))
        );
    }
}
