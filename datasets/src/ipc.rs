//! Arrow IPC files in memory, read without copying and without trust.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::Schema;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::{Block, root_as_footer};

/// Bytes at the end of an Arrow IPC file: the footer's length and the magic word.
const TRAILER_BYTES: usize = 10;

/// The record batches of an Arrow IPC file in memory, without copying: an array that is not
/// aligned is an error instead of a silent copy.
///
/// The library that reads batches panics on some altered files: to the caller that is an error like
/// the others, so that it can name the file.
pub(crate) fn decode(
    bytes: &Buffer,
    check_schema: impl FnOnce(&Schema) -> Result<(), String>,
) -> Result<Vec<RecordBatch>, String> {
    catch_unwind(AssertUnwindSafe(|| decode_trusting(bytes, check_schema)))
        .unwrap_or_else(|_| Err("its reader gave up on it".to_owned()))
}

fn decode_trusting(
    bytes: &Buffer,
    check_schema: impl FnOnce(&Schema) -> Result<(), String>,
) -> Result<Vec<RecordBatch>, String> {
    let trailer_start = bytes
        .len()
        .checked_sub(TRAILER_BYTES)
        .ok_or("it is too short")?;
    let trailer = bytes[trailer_start..]
        .try_into()
        .map_err(|_| "it is too short")?;
    let footer_bytes = read_footer_length(trailer).map_err(|error| error.to_string())?;
    let footer_start = trailer_start
        .checked_sub(footer_bytes)
        .ok_or("its footer is cut off")?;
    let footer = root_as_footer(&bytes[footer_start..trailer_start])
        .map_err(|error| format!("its footer cannot be read: {error}"))?;
    let schema = footer.schema().ok_or("its footer has no schema")?;
    let schema = try_fb_to_schema(schema).map_err(|error| error.to_string())?;
    check_schema(&schema)?;

    // A copy would double the memory of a set that is mapped so as not to be in memory.
    let decoder = FileDecoder::new(schema.into(), footer.version()).with_require_alignment(true);
    let mut batches = Vec::new();
    for block in footer.recordBatches().iter().flatten() {
        // Offsets come from the file: each is checked before it is followed.
        let data = block_bytes(bytes, block, footer_start).ok_or("a block lies outside of it")?;
        let batch = decoder
            .read_record_batch(block, &data)
            .map_err(|error| error.to_string())?;
        batches.extend(batch);
    }
    Ok(batches)
}

/// The bytes of a block, if all of it lies before the footer.
fn block_bytes(bytes: &Buffer, block: &Block, footer_start: usize) -> Option<Buffer> {
    let start = usize::try_from(block.offset()).ok()?;
    let metadata = usize::try_from(block.metaDataLength()).ok()?;
    let body = usize::try_from(block.bodyLength()).ok()?;
    let length = metadata.checked_add(body)?;
    let end = start.checked_add(length)?;
    (end <= footer_start).then(|| bytes.slice_with_length(start, length))
}
