//! Secrets that a host has for the jobs of one project.

use std::fs;
use std::path::Path;

use marquee_domain::spec::Work;
use marquee_proto::v1::FailureClass;
use marquee_proto::v1::report::Body;

use crate::daemon::{Assigned, Daemon, shell};
use crate::fake::{Fake, Key};

/// Not to be found but in the environment of the job that named it.
const VALUE: &str = "value-of-project-a";

fn named(secret: &str, script: &str) -> Work {
    match shell(script) {
        Work::Command(mut command) => {
            command.env_from_worker = vec![secret.to_owned()];
            Work::Command(command)
        }
        _ => unreachable!("shell gives a command"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_goes_to_the_named_job_of_its_project_and_is_written_nowhere() {
    let fake = Fake::start().await;
    let store = tempfile::tempdir().unwrap();
    fs::write(store.path().join("KEY@a"), format!("{VALUE}\n")).unwrap();
    fs::write(store.path().join("KEY"), "value of all").unwrap();
    let env = [
        ("CREDENTIALS_DIRECTORY", store.path().to_str().unwrap()),
        ("MARQUEE_WORKER__COMMAND_SECRETS", "KEY@a/job KEY@b/other"),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let daemon = Daemon::start_in(&fake, &[], env.to_vec());
    let test = format!("test \"$KEY\" = {VALUE} && test -z \"$CREDENTIALS_DIRECTORY\"");
    // Its length alone is said, so that the value would not stand in the log for this test's own reasons.
    let (own, asks, waits): (Key, Key, Key) = ((91, 1, 0), (92, 1, 0), (93, 1, 0));
    let script = "test ${#KEY} = 18 && echo ready && sleep 1001";
    let waiting = Assigned::new(waits, named("KEY", script)).of_project("a");
    waiting.started().tell(&fake).await;
    fake.until("a job with the secret", |state| {
        format!("{:?}", state.reports.get(&waits)).contains("ready")
    })
    .await;
    assert!(!holds(&daemon.data(), VALUE), "it lies in the data folder");
    assert!(!daemon.log_text().contains(VALUE));
    let job = Assigned::new(
        own,
        named(
            "KEY",
            &test.replace(VALUE, "$(printf %s value-of-; printf %s project-a)"),
        ),
    );
    job.of_project("a").started().tell(&fake).await;
    let end = fake.until_ended(own).await;
    assert!(matches!(end, Body::Finished(_)), "{end:?}");
    // A job of that name in another project, and one of another name in a project that has one.
    for (key, project) in [(asks, "c"), ((94, 1, 0), "b")] {
        let job = Assigned::new(key, named("KEY", "env")).of_project(project);
        job.started().tell(&fake).await;
        let Body::Failed(failed) = fake.until_ended(key).await else {
            panic!("it was given")
        };
        let failure = failed.failure.unwrap();
        assert_eq!(failure.class(), FailureClass::UserError);
        let message = failure.message;
        assert!(message.contains(&format!("KEY@{project}")), "{message}");
        assert!(!message.contains("value"), "{message}");
    }
    crate::daemon::stop(&fake, waits, 0, false).await;
    fake.until_ended(waits).await;
    let reports = format!("{:?}", fake.state().reports);
    assert!(!reports.contains(VALUE));
}

/// Whether a text stands in any file of a folder.
fn holds(folder: &Path, text: &str) -> bool {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let path = entry.path();
            match path.is_dir() {
                true => holds(&path, text),
                false => {
                    let bytes = fs::read(&path).unwrap_or_default();
                    bytes
                        .windows(text.len())
                        .any(|part| part == text.as_bytes())
                }
            }
        })
}
