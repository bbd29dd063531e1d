//! Files from strangers into pixels of one size: what shards are made of, and what the `original`
//! encoding does when it is read.

pub(crate) mod decode;
mod jpeg_file;
mod shrink;
mod skip;

pub use self::shrink::Shrinker;
pub(crate) use self::skip::Skip;

/// A picture file in full, upright. The error is for people.
pub fn decoded(file: &[u8]) -> Result<crate::scale::Rgb, String> {
    match decode::decode(file) {
        Ok((picture, _)) => Ok(picture),
        Err(skip) => Err(skip.detail),
    }
}
