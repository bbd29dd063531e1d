//! Every method that is served, with the right that it takes and whether it only reads: the one table by which requests
//! are let through (`guard`). What is in it must be known; what is not in it is served to nobody.
//!
//! A right is the least that a method takes of anybody. Where it is about jobs, the handler asks in which project
//! (`scope`).

use std::collections::HashMap;
use std::sync::LazyLock;

/// What it takes to ask for a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// To be let in to the port.
    Anybody,
    /// A role in some project. What is shown is of the projects in which one has a role.
    Look,
    /// To be a submitter in some project. The handler asks in which.
    Act,
    /// To be an administrator everywhere.
    Govern,
    /// To be a worker: a certificate or an account that was let in.
    Work,
    /// Either: files, which workers bring and people fetch; and whom to ask.
    LookOrWork,
}

impl Right {
    /// Whether a worker that joined may ask for it, by its certificate alone.
    pub(super) fn is_a_workers(self) -> bool {
        match self {
            Self::Anybody | Self::Work | Self::LookOrWork => true,
            Self::Look | Self::Act | Self::Govern => false,
        }
    }
}

/// A method's row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method {
    pub(super) right: Right,
    /// It changes nothing: one that stands by, or is in safe mode, answers too.
    pub(super) is_read: bool,
}

use Right::{Act, Anybody, Govern, Look, LookOrWork, Work};

const READS: bool = true;
const WRITES: bool = false;

/// Service and method, its right, and whether it only reads.
pub(super) const METHODS: [(&str, &str, Right, bool); 80] = [
    ("Jobs", "SubmitPipeline", Act, WRITES),
    ("Jobs", "SubmitJob", Act, WRITES),
    ("Jobs", "GetJob", Look, READS),
    ("Jobs", "GetPipeline", Look, READS),
    ("Jobs", "ListJobs", Look, READS),
    ("Jobs", "CancelJob", Act, WRITES),
    ("Jobs", "CancelPipeline", Act, WRITES),
    ("Jobs", "RetryJob", Act, WRITES),
    ("Jobs", "HoldJob", Act, WRITES),
    ("Jobs", "ReleaseJob", Act, WRITES),
    ("Jobs", "MoveJob", Act, WRITES),
    ("Jobs", "RemovePipeline", Act, WRITES),
    ("Jobs", "CollectGarbage", Govern, WRITES),
    ("Jobs", "KeepPipeline", Act, WRITES),
    ("Jobs", "Watch", Look, READS),
    ("Jobs", "Logs", Look, READS),
    ("Jobs", "Metrics", Look, READS),
    ("Jobs", "Series", Look, READS),
    ("Jobs", "Explain", Look, READS),
    ("Jobs", "WhatIf", Look, READS),
    ("Artifacts", "ListArtifacts", Look, READS),
    ("Artifacts", "GetArtifact", Look, READS),
    ("Artifacts", "RemoveArtifact", Act, WRITES),
    ("Artifacts", "FindMissingBlobs", Work, WRITES),
    ("Artifacts", "UploadBlob", Work, WRITES),
    ("Artifacts", "DownloadBlob", LookOrWork, READS),
    ("Artifacts", "RescueOutput", Act, WRITES),
    ("Workers", "ListWorkers", Look, READS),
    ("Workers", "DrainWorker", Govern, WRITES),
    ("Workers", "ResumeWorker", Govern, WRITES),
    ("Workers", "QuarantineWorker", Govern, WRITES),
    ("Workers", "BurnIn", Govern, WRITES),
    ("Workers", "AddWindow", Govern, WRITES),
    ("Workers", "RemoveWindow", Govern, WRITES),
    // A host that is set up is diagnosed before it is known: version, time and the cluster's id.
    ("Workers", "Probe", Anybody, READS),
    // A worker has to find those that came after it.
    ("Workers", "ListCoordinators", LookOrWork, READS),
    ("WorkerSession", "Connect", Work, WRITES),
    ("Audit", "Verify", Govern, READS),
    ("Audit", "List", Govern, READS),
    // Of the one that leads, and written down in the audit: it is all that the cluster knows.
    ("Backups", "TakeMoment", Govern, WRITES),
    ("Cluster", "GetOverview", Look, READS),
    ("Cluster", "WatchOverview", Look, READS),
    ("Cluster", "GetUsage", Look, READS),
    ("Cluster", "GetGpuHistory", Look, READS),
    ("Cluster", "ListSettings", Govern, READS),
    ("Projects", "ListProjects", Look, READS),
    ("Projects", "SetProject", Act, WRITES),
    // A schedule submits by itself, whoever set it: what it may do is what an administrator may.
    ("Schedules", "AddSchedule", Govern, WRITES),
    ("Schedules", "ListSchedules", Govern, READS),
    ("Schedules", "GetSchedule", Govern, READS),
    ("Schedules", "PauseSchedule", Govern, WRITES),
    ("Schedules", "RemoveSchedule", Govern, WRITES),
    // In the project whose secret it is, an administrator.
    ("Secrets", "SetSecret", Act, WRITES),
    ("Secrets", "ListSecrets", Look, READS),
    ("Secrets", "RemoveSecret", Act, WRITES),
    ("Secrets", "RekeySecrets", Govern, WRITES),
    // One that stands by may have read another state of the rank.
    ("Secrets", "TakeSecrets", Work, WRITES),
    ("Chaos", "Rehearse", Govern, WRITES),
    ("Users", "WhoAmI", Anybody, READS),
    // The token that it is given is what it takes.
    ("Users", "LogIn", Anybody, WRITES),
    ("Users", "LogOut", Anybody, WRITES),
    ("Users", "ListUsers", Govern, READS),
    ("Users", "AddUser", Govern, WRITES),
    ("Users", "SetRole", Govern, WRITES),
    ("Users", "RemoveUser", Govern, WRITES),
    // One's own, where one is no administrator.
    ("Users", "ListTokens", Look, READS),
    ("Users", "CreateToken", Govern, WRITES),
    ("Users", "RevokeToken", Look, WRITES),
    // The join token that it is given is what it takes.
    ("Trust", "Join", Anybody, WRITES),
    ("Trust", "Renew", Work, WRITES),
    ("Trust", "CreateJoinToken", Govern, WRITES),
    ("Trust", "ListJoinTokens", Govern, READS),
    ("Trust", "RevokeJoinToken", Govern, WRITES),
    ("Trust", "ListMembers", Govern, READS),
    ("Trust", "RevokeMember", Govern, WRITES),
    ("Trust", "RenameMember", Govern, WRITES),
    ("Trust", "ForgetMember", Govern, WRITES),
    // A worker has to hear of one that is to come.
    ("Trust", "GetAuthority", LookOrWork, READS),
    ("Trust", "RotateAuthority", Govern, WRITES),
    ("Trust", "GetRotation", Govern, READS),
];
/// A worker that joins has nothing to show but its token.
const JOIN: &str = "/marquee.v1.Trust/Join";

/// Services that say what there is, of whatever coordinator, with all their methods.
const ABOUT: [&str; 2] = [HEALTH, "/grpc.reflection."];
/// Whether we are well: anybody who can connect may know.
const HEALTH: &str = "/grpc.health.";

static BY_PATH: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let rows = METHODS.iter().map(|(service, method, right, is_read)| {
        let (right, is_read) = (*right, *is_read);
        let path = format!("/marquee.v1.{service}/{method}");
        (path, Method { right, is_read })
    });
    rows.collect()
});

/// The row of a path. None: no such method is served.
pub(super) fn of(path: &str) -> Option<Method> {
    if is_about(path) {
        return Some(Method {
            right: Anybody,
            is_read: true,
        });
    }
    BY_PATH.get(path).copied()
}

pub(super) fn is_about(path: &str) -> bool {
    ABOUT.iter().any(|service| path.starts_with(service))
}

/// Whether somebody may ask who has shown nothing, and comes from wherever.
pub(super) fn is_for_strangers(path: &str) -> bool {
    path.starts_with(HEALTH) || path == JOIN
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use marquee_proto::FILE_DESCRIPTOR_SET;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_of_every_service_has_its_row_and_no_row_is_of_none() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let ours = set
            .file
            .iter()
            .filter(|file| file.package() == "marquee.v1");
        let served: BTreeSet<(String, String)> = ours
            .flat_map(|file| &file.service)
            .flat_map(|service| {
                let methods = service.method.iter();
                methods.map(|method| (service.name().to_owned(), method.name().to_owned()))
            })
            .collect();
        let rows: BTreeSet<(String, String)> = METHODS
            .iter()
            .map(|(service, method, ..)| ((*service).to_owned(), (*method).to_owned()))
            .collect();
        let without: Vec<_> = served.difference(&rows).collect();
        assert!(
            without.is_empty(),
            "say in METHODS what these take: {without:?}"
        );
        let beyond: Vec<_> = rows.difference(&served).collect();
        assert!(beyond.is_empty(), "nobody serves {beyond:?}");
        assert_eq!(rows.len(), METHODS.len(), "a method has two rows");
    }

    #[test]
    fn nothing_that_changes_something_is_open_to_everybody_but_what_takes_a_token() {
        let open = METHODS.iter().filter(|(.., right, _)| *right == Anybody);
        let open: Vec<&str> = open.map(|(_, method, ..)| *method).collect();
        assert_eq!(open, ["Probe", "WhoAmI", "LogIn", "LogOut", "Join"]);
    }

    #[test]
    fn a_path_is_a_methods_to_the_letter_or_nobodys() {
        let cancel = of("/marquee.v1.Jobs/CancelJob").unwrap();
        assert_eq!((cancel.right, cancel.is_read), (Act, false));
        for odd in [
            "",
            "/",
            "CancelJob",
            "/Jobs/CancelJob",
            "marquee.v1.Jobs/CancelJob",
            "/marquee.v1.Jobs/cancelJob",
            "/marquee.v1.Jobs/CancelJob/",
            "/marquee.v1.Jobs/CancelJob?x=1",
            "//marquee.v1.Jobs/CancelJob",
            "/marquee.v1.Jobs/../Users/WhoAmI",
            "/marquee.v2.Jobs/CancelJob",
            "/marquee.v1.Jobs",
            "/grpc.health",
            "/grpc.reflectionx/",
            "/x/grpc.health.v1.Health/Check",
        ] {
            assert!(of(odd).is_none(), "{odd:?}");
            assert!(!is_for_strangers(odd), "{odd:?}");
        }
    }

    #[test]
    fn what_says_what_there_is_only_reads_and_strangers_get_no_more_than_health_and_joining() {
        for about in [
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ] {
            let row = of(about).unwrap();
            assert_eq!((row.right, row.is_read), (Anybody, true));
            assert_eq!(
                is_for_strangers(about),
                about.starts_with(HEALTH),
                "{about}"
            );
        }
        let strangers = METHODS.iter().filter(|(service, method, ..)| {
            is_for_strangers(&format!("/marquee.v1.{service}/{method}"))
        });
        let strangers: Vec<_> = strangers
            .map(|(service, method, ..)| (*service, *method))
            .collect();
        assert_eq!(strangers, [("Trust", "Join")]);
    }

    #[test]
    fn what_only_looks_needs_no_more_than_to_look_and_what_changes_needs_more() {
        for (service, method, right, is_read) in METHODS {
            let name = format!("{service}.{method}");
            let says_look = [
                "Get", "List", "Watch", "Explain", "WhatIf", "Series", "Metrics", "Logs",
            ]
            .iter()
            .any(|word| method.starts_with(word));
            if says_look {
                assert!(is_read, "{name} changes nothing");
            }
            match right {
                // One's own tokens are ended by whoever has one.
                Look => assert!(is_read || name == "Users.RevokeToken", "{name}"),
                Act => assert!(!is_read, "{name}"),
                Anybody | Govern | Work | LookOrWork => {}
            }
        }
        // A certificate of a worker is on each host: what it may ask for is work, and files.
        let of_workers = METHODS.iter().filter(|(.., right, _)| right.is_a_workers());
        let changing: Vec<&str> = of_workers
            .filter(|(.., is_read)| !is_read)
            .map(|(_, method, ..)| *method)
            .collect();
        assert_eq!(
            changing,
            [
                "FindMissingBlobs",
                "UploadBlob",
                "Connect",
                "TakeSecrets",
                "LogIn",
                "LogOut",
                "Join",
                "Renew"
            ]
        );
    }
}
