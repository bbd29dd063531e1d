//! Decoding in a process of its own, where a crash, an endless loop or a hunger for memory ends a
//! helper and costs one picture.
//!
//! A request is its length (4 bytes, little endian) and the file. An answer is one byte (1: a picture,
//! 0: a skip), the length of its words and their JSON, and for a picture the length of its bytes
//! and those.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use marquee_domain::spec::ImageEncoding;
use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};

use super::look::Look;
use super::prepare::{Prepared, Preparer};
use crate::picture::Skip;

/// Time for one picture. The largest that is taken needs a second or two.
const PICTURE_MAX: Duration = Duration::from_secs(30);
/// Memory of a helper: a picture of the most pixels that are taken, a few times over.
const MEMORY_MAX_BYTES: u64 = 3 * 1024 * 1024 * 1024;
/// Bytes of an answer, at most: raw pixels of the largest training picture, or the largest file.
const ANSWER_MAX_BYTES: u32 = 64 * 1024 * 1024;

const SKIPPED: u8 = 0;
const PICTURE: u8 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct SkipWords {
    class: String,
    detail: String,
}

/// A helper, started when it is needed and again when it died.
#[derive(Debug)]
pub(super) struct Helper {
    program: PathBuf,
    arguments: Vec<String>,
    running: Option<(Child, UnixStream)>,
}

impl Helper {
    pub(super) fn new(program: &Path, width: u32, height: u32, encoding: ImageEncoding) -> Self {
        Self {
            program: program.to_owned(),
            arguments: vec![
                "decode-helper".to_owned(),
                width.to_string(),
                height.to_string(),
                encoding.as_str().to_owned(),
            ],
            running: None,
        }
    }

    /// Prepares one picture.
    pub(super) fn prepare(&mut self, file: &[u8]) -> io::Result<Prepared> {
        let (mut child, mut stream) = match self.running.take() {
            Some(running) => running,
            None => self.start()?,
        };
        match ask(&mut stream, file) {
            Ok(prepared) => {
                self.running = Some((child, stream));
                Ok(prepared)
            }
            Err(error) => {
                // Whatever went wrong, the stream is out of step: the next picture gets a new helper.
                let _ = child.kill();
                let status = child.wait()?;
                let is_late = matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                );
                Ok(Prepared::Skipped(if is_late {
                    let detail = format!("its decoder was not done after {PICTURE_MAX:?}");
                    Skip::new("decoder_timeout", detail)
                } else {
                    Skip::new(
                        "decoder_crashed",
                        format!("its decoder ended with {status}"),
                    )
                }))
            }
        }
    }

    fn start(&self) -> io::Result<(Child, UnixStream)> {
        // A pair of sockets instead of two pipes: pipes have no time limit for reads.
        let (ours, theirs) = UnixStream::pair()?;
        // A decoder in an endless loop never answers. A limit on the socket needs no thread that watches.
        ours.set_read_timeout(Some(PICTURE_MAX))?;
        ours.set_write_timeout(Some(PICTURE_MAX))?;
        let input = OwnedFd::from(theirs.try_clone()?);
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        Ok((child, ours))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some((mut child, stream)) = self.running.take() {
            // It ends when nobody can ask it any more.
            drop(stream);
            let _ = child.wait();
        }
    }
}

fn ask(stream: &mut UnixStream, file: &[u8]) -> io::Result<Prepared> {
    // Neither side can wait for the other to make room: the helper reads all of a file before it
    // answers (`serve`), and here all of an answer is read before the next file goes.
    let length = u32::try_from(file.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(file)?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    let words = read_block(stream)?;
    if kind[0] == PICTURE {
        let look: Look = serde_json::from_slice(&words)?;
        return Ok(Prepared::Image(read_block(stream)?, Box::new(look)));
    }
    let words: SkipWords = serde_json::from_slice(&words)?;
    Ok(Prepared::Skipped(Skip::new(words.class, words.detail)))
}

fn read_block(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    // A helper that was taken over by a picture may say anything.
    if length > ANSWER_MAX_BYTES {
        return Err(io::Error::other("an answer is too long"));
    }
    let mut block = vec![0; length as usize];
    stream.read_exact(&mut block)?;
    Ok(block)
}

fn write_block(out: &mut impl Write, block: &[u8]) -> io::Result<()> {
    let length = u32::try_from(block.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(block)
}

/// The helper's side: prepares what comes until nothing comes any more.
pub(super) fn serve(
    width: u32,
    height: u32,
    encoding: ImageEncoding,
    input: &mut impl Read,
    out: &mut impl Write,
) -> io::Result<()> {
    // A decoder that asks for more dies of it, and costs one picture instead of the machine's memory.
    setrlimit(Resource::RLIMIT_AS, MEMORY_MAX_BYTES, MEMORY_MAX_BYTES)?;
    let mut preparer = Preparer::new(width, height, encoding);
    loop {
        let mut length = [0; 4];
        match input.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let mut file = vec![0; u32::from_le_bytes(length) as usize];
        input.read_exact(&mut file)?;
        match preparer.prepare(&file) {
            Prepared::Image(bytes, look) => {
                out.write_all(&[PICTURE])?;
                write_block(out, &serde_json::to_vec(&look)?)?;
                write_block(out, &bytes)?;
            }
            Prepared::Skipped(Skip { class, detail }) => {
                out.write_all(&[SKIPPED])?;
                write_block(out, &serde_json::to_vec(&SkipWords { class, detail })?)?;
            }
        }
        out.flush()?;
    }
}
