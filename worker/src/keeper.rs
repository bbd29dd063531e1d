//! `marquee-keeper`: watches over one child of a worker. A program of its own, since one is started for every child, and
//! loading the daemon's takes about a millisecond of a core more.

use marquee_worker::process::cage::keeping;
use marquee_worker::process::keeper::{self, Keep};

fn main() -> anyhow::Result<()> {
    keeper::keep(&Keep::read(std::env::args_os().skip(1))?, keeping::keep)
}
