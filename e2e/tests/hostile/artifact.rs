//! A hostile disk: what it has made of stored artifacts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use marquee_e2e::jobs::id_of;
use marquee_proto::v1::AttemptState;

use super::{DEADLINE, Site};

/// What the disk does to a file.
type Damage = fn(&Path) -> std::io::Result<()>;

const DAMAGES: [(&str, Damage); 3] = [
    ("cut-short", |file| fs::write(file, "m")),
    ("changed", |file| {
        let mut bytes = fs::read(file)?;
        bytes[0] ^= 1;
        fs::write(file, bytes)
    }),
    ("lost", |file| fs::remove_file(file)),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_disk_damaged_is_made_again_and_its_consumer_goes_on() -> Result<()> {
    let site = Site::start().await?;
    let cluster = &site.cluster;
    for (what, damage) in DAMAGES {
        let go = cluster.folder().join(format!("go-{what}"));
        // `take` is placed after the file is damaged: the gate opens then. A file can be seen by name from anywhere.
        let document = format!(
            "name = {what:?}\n\
             [jobs.make]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"printf made > $MARQUEE_OUTPUT/{what}\"]\n\
             [jobs.gate]\nkind = \"command\"\nneeds = [\"make\"]\nargv = [\"sh\", \"-c\", \"while [ ! -e {} ]; do sleep 0.1; done\"]\n\
             [jobs.take]\nkind = \"command\"\nneeds = [\"gate\"]\ninputs = {{ data = \"make.output\" }}\nmax_attempts = 1\n\
             argv = [\"sh\", \"-c\", \"cat $MARQUEE_INPUT_DATA/{what}\"]\n",
            go.display()
        );
        // The same bytes would be one blob, and be whole again by another's upload.
        let document = document.replace("printf made", &format!("printf {what}-made"));
        let submitted = cluster.submit(what, &document, &[]).await?;
        let (make, take) = (id_of(&submitted, "make")?, id_of(&submitted, "take")?);
        cluster.wait_success(make, DEADLINE).await?;
        damage(&blob(cluster.folder(), &format!("{what}-made"))?)?;
        fs::write(&go, "")?;
        let taken = cluster.wait_success(take, DEADLINE).await?;
        assert!(
            cluster
                .log_of(take)
                .await?
                .contains(&format!("{what}-made"))
        );
        let states: Vec<AttemptState> = taken.attempts.iter().map(|one| one.state()).collect();
        assert_eq!(
            states,
            [AttemptState::Interrupted, AttemptState::Succeeded],
            "{what}"
        );
        assert_eq!(cluster.job(make).await?.attempts.len(), 2, "{what}");
        let explained = cluster.cli(&["explain", &make.to_string()])?;
        let said = String::from_utf8_lossy(&explained.stdout).into_owned();
        assert!(said.contains("made again"), "{said}");
    }
    site.all_is_well().await
}

/// Where a file with these contents lies at the coordinator.
fn blob(cluster: &Path, contents: &str) -> Result<PathBuf> {
    let mut folders = vec![cluster.join("coordinator/blobs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::read(&path).is_ok_and(|found| found == contents.as_bytes()) {
                return Ok(path);
            }
        }
    }
    None.with_context(|| format!("no file holds {contents:?}"))
}
