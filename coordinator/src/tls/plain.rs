//! A word for clients that speak no TLS to a port that does: without it they see a connection that broke, and nothing
//! that tells them why.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::env::Connection;

const WHY: &str = "this port speaks TLS: write https:// in the coordinator's address";
/// What an HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI";
/// The server's preface: a SETTINGS frame that sets nothing.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// The type of a frame by which a server says goodbye, and the code for one that wants more security (RFC 9113).
const GOAWAY: u8 = 7;
const INADEQUATE_SECURITY: u32 = 0xc;
/// How long the client may take to read it and go: closed before, the word might be lost with the connection.
const READS_WITHIN: Duration = Duration::from_secs(1);

/// Says it in the language that the client speaks, and closes.
pub(super) async fn answer(mut connection: Connection) -> io::Result<()> {
    let begin = connection.peek().await?;
    let words = if begin.starts_with(PREFACE) {
        in_http_2()
    } else {
        in_http_1()
    };
    connection.write_all(&words).await?;
    connection.shutdown().await?;
    let mut rest = [0; 1_024];
    let gone = async {
        while connection
            .read(&mut rest)
            .await
            .is_ok_and(|count| count > 0)
        {}
    };
    let _in_time = tokio::time::timeout(READS_WITHIN, gone).await;
    Ok(())
}

fn in_http_2() -> Vec<u8> {
    let mut frame = SETTINGS.to_vec();
    // A few dozen bytes.
    let length = u8::try_from(8 + WHY.len()).unwrap_or(8);
    frame.extend([0, 0, length, GOAWAY, 0, 0, 0, 0, 0]);
    // No request of the client's was looked at.
    frame.extend(0_u32.to_be_bytes());
    frame.extend(INADEQUATE_SECURITY.to_be_bytes());
    frame.extend(WHY.as_bytes());
    frame
}

fn in_http_1() -> Vec<u8> {
    let length = WHY.len() + 1;
    format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{WHY}\n"
    )
    .into_bytes()
}
