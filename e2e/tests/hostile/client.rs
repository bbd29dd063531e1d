//! A hostile client: what it types, and what it sends without being asked.

use std::io::Write as _;
use std::net::TcpStream;

use anyhow::Result;
use marquee_proto::v1;

use super::Site;

const GOOD: &str = "name = \"p\"\n[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_are_refused_by_name_and_stop_nobody() -> Result<()> {
    let site = Site::start().await?;
    let folder = site.cluster.folder();
    let typed: [(&str, String, String, &str); 6] = [
        (
            "a path of 10,000 keys",
            GOOD.into(),
            format!("{}=1", vec!["a"; 10_000].join(".")),
            "16 keys",
        ),
        (
            "a document of 2 MiB",
            format!("{GOOD}# {}\n", "x".repeat(2 << 20)),
            "name=q".into(),
            "has more than 1.0 MiB",
        ),
        (
            "lists within lists",
            format!("{GOOD}\na = {}{}", "[".repeat(50_000), "]".repeat(50_000)),
            "name=q".into(),
            "document",
        ),
        (
            "a NUL",
            GOOD.into(),
            "jobs.one.argv=[\"a\\u0000\"]".into(),
            "NUL",
        ),
        (
            "a name of 100,000 bytes",
            GOOD.into(),
            format!("name={}", "n".repeat(100_000)),
            "name",
        ),
        (
            "a number beyond all",
            GOOD.into(),
            "jobs.one.array=18446744073709551615".into(),
            "array",
        ),
    ];
    for (what, document, set, wanted) in &typed {
        let file = folder.join("attack.toml");
        std::fs::write(&file, document)?;
        let file = file.to_string_lossy().into_owned();
        let output = site.cluster.cli(&["submit", &file, "--set", set])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // An exit code and no signal; a text that a person reads.
        assert!(
            output.status.code().is_some_and(|code| code != 0),
            "{what}: {said}"
        );
        assert!(
            said.contains(wanted) && said.len() < 10_000,
            "{what}: {said}"
        );
    }
    let address = site.cluster.url().replace("http://", "");
    let mut silent = Vec::new();
    for bytes in [
        &b""[..],
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x04\0\0\0\0\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0",
        &[0; 65_536],
    ] {
        for _ in 0..20 {
            let mut connection = TcpStream::connect(&address)?;
            // It may have hung up in the middle.
            let _sent_or_not = connection.write_all(bytes);
            silent.push(connection);
        }
    }
    for id in [i64::MIN, -1, 0, i64::MAX] {
        let mut jobs = site.cluster.jobs()?;
        let found = jobs.get_job(v1::GetJobRequest { id }).await;
        assert!(found.is_err(), "job {id}: {found:?}");
        let mut jobs = site.cluster.jobs()?;
        let cancelled = jobs.cancel_job(v1::CancelJobRequest { id }).await;
        assert!(cancelled.is_err(), "job {id}: {cancelled:?}");
    }
    site.all_is_well().await
}
