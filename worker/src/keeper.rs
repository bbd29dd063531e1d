//! `marquee-keeper`: watches over one child of a worker. A program of its own, since one is started for every child:
//! the kernel needs longer to load the daemon's than a keeper needs for all that it does.

use marquee_worker::process::cage::keeping;
use marquee_worker::process::keeper::{self, Keep};

fn main() -> anyhow::Result<()> {
    keeper::keep(&Keep::read(std::env::args_os().skip(1))?, keeping::keep)
}
