//! A bucket, asked over HTTP: of a real server (moto), and of servers that do what they should not.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod faults;
mod real;
