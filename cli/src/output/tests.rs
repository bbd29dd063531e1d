//! What every view looks like, and that nothing that a coordinator says makes one of them fail.

mod odd;
mod pages;
