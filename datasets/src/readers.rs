//! What reads bytes from strangers, one input at a time, for the fuzzer of `marquee-catalogue`.
//!
//! Each function says in a word or two how an input was taken, the same for inputs that are taken
//! alike: the fuzzer keeps an input when its words are new.

pub use crate::fetch::{
    archive_samples, list_samples, read_any_answer, read_any_archive, read_any_export_line,
    read_any_list, read_any_table, table_samples,
};
pub use crate::preprocess::read_any_picture;
pub use crate::shards::{read_any_shard, shard_samples};
