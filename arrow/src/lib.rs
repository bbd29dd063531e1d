//! The part of Arrow that Marquee uses: columns, their types, buffers and the IPC file. The paths are those of
//! the crate `arrow`, which builds kernels that nobody here calls.

pub use arrow_buffer as buffer;
pub use arrow_ipc as ipc;

pub mod array {
    pub use arrow_array::builder::*;
    pub use arrow_array::cast::AsArray;
    pub use arrow_array::*;
}

pub mod datatypes {
    pub use arrow_array::types::*;
    pub use arrow_schema::*;
}

pub mod error {
    pub use arrow_schema::ArrowError;
}
