//! The film catalogue: `marquee-catalogue serve`, a TMDb-compatible server of generated films.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStdout;
use tokio::time::timeout;

use crate::cluster::{Layout, Program, beside_us};
use crate::error::Result;

/// It may draw all posters before it listens.
const START: Duration = Duration::from_secs(180);
/// The same films in every demo.
const SEED: &str = "1";

/// The line with which it says that it is ready.
#[derive(Debug, Deserialize)]
struct Listening {
    event: String,
    api_url: String,
}

/// Starts it and returns it with the address of its API.
pub(crate) async fn start(layout: &Layout, films: u32) -> Result<(Program, String)> {
    let args = [
        "serve",
        "--films",
        &films.to_string(),
        "--seed",
        SEED,
        // A free one, which it tells: a second demo, or whatever else has a fixed port, is no
        // obstacle.
        "--port",
        "0",
    ];
    let args = args.into_iter().map(Into::into).collect();
    let log = layout.log("catalogue");
    let mut program = Program::new(
        "the film catalogue",
        beside_us("marquee-catalogue")?,
        args,
        log,
    );
    let mut stdout = BufReader::new(program.start_and_listen()?);
    let api_url = match timeout(START, address(&mut stdout)).await {
        Ok(Ok(Some(api_url))) => api_url,
        Ok(Ok(None)) => {
            return Err(anyhow!(
                "the film catalogue ended at its start\n{}",
                program.last_words()
            )
            .into());
        }
        Ok(Err(error)) => return Err(error),
        Err(_) => {
            let limit = START.as_secs();
            return Err(anyhow!(
                "the film catalogue does not listen after {limit} s\n{}",
                program.last_words()
            )
            .into());
        }
    };
    // Reads its stdout to the end: if nobody did, the pipe would fill up and block it.
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
    });
    Ok((program, api_url))
}

/// The address that it says it listens on; None at the end of its output.
async fn address(stdout: &mut BufReader<ChildStdout>) -> Result<Option<String>> {
    let mut line = String::new();
    loop {
        line.clear();
        if stdout
            .read_line(&mut line)
            .await
            .context("cannot read from the film catalogue")?
            == 0
        {
            return Ok(None);
        }
        match serde_json::from_str::<Listening>(&line) {
            Ok(listening) if listening.event == "listening" => return Ok(Some(listening.api_url)),
            // Other lines are not about the address.
            Ok(_) | Err(_) => {}
        }
    }
}
