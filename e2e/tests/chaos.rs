//! A minute of chaos with every test run; `cargo xtask chaos` does more of it.

use std::time::Duration;

use anyhow::Result;
use marquee_e2e::chaos::{self, Options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_of_chaos_loses_and_doubles_nothing() -> Result<()> {
    let options = Options {
        time: Duration::from_secs(60),
        seed: 11,
        workers: 2,
        ..Options::default()
    };
    let outcome = chaos::run(&options, |line| eprintln!("{line}")).await?;
    eprintln!("{}", outcome.text());
    assert!(outcome.is_clean(), "{:#?}", outcome.problems());
    assert!(
        outcome.verified["commits"].as_u64() > Some(0),
        "nothing was done"
    );
    Ok(())
}
