use marquee_domain::ids::{PipelineId, Rank};
use marquee_domain::job::RankState;
use marquee_domain::resources::{Device, DeviceKind, Resources};
use marquee_domain::spec::{CommandSettings, Work};
use uuid::Uuid;

use super::*;

fn key(rank: u32) -> RankKey {
    RankKey {
        job: JobId(7),
        attempt: AttemptNumber(2),
        rank: Rank(rank),
    }
}

fn gpu(index: u32) -> v1::Device {
    v1::Device::from(&Device::Gpu { index })
}

fn on(rank: u32, worker: u128) -> RankRow {
    RankRow {
        key: key(rank),
        worker: WorkerId(Uuid::from_u128(worker)),
        worker_name: format!("host-{worker}"),
        worker_online: true,
        devices: vec![Device::Gpu { index: rank }],
        state: RankState::Assigned,
        progress: None,
        summary: None,
        failure: None,
        ended_at: None,
        lost_at: None,
    }
}

fn spec(min_ranks: Option<u32>) -> JobSpec {
    JobSpec {
        name: "job".parse().unwrap(),
        work: Work::Command(CommandSettings {
            argv: vec!["true".into()],
            env: Default::default(),
            env_from_worker: Vec::new(),
        }),
        needs: Vec::new(),
        needs_on: Default::default(),
        inputs: Default::default(),
        resources: Resources {
            ranks: 4,
            min_ranks,
            device: DeviceKind::Gpu,
            devices_per_rank: 1,
        },
        priority: 0,
        max_attempts: 3,
        timeout_s: None,
        reuse: true,
        array: None,
        may_fail: 0,
        element: None,
        values: Default::default(),
        watch: Default::default(),
        sharing: Default::default(),
    }
}

fn stored(rank: u32, world_size: u32, min_ranks: Option<u32>) -> Assignment {
    Assignment {
        key: key(rank),
        pipeline: PipelineId(3),
        spec: Ok(spec(min_ranks)),
        world_size,
        local_rank: 0,
        devices: vec![Device::Gpu { index: 5 }],
        resume: None,
        standby_rank: Some(Rank(2)),
    }
}

fn knows(start: bool) -> Knows {
    Knows {
        start,
        secrets: true,
        burn_in: true,
    }
}

#[test]
fn a_burn_in_is_not_given_to_a_worker_that_would_look_for_its_program_elsewhere() {
    let mut burn_in = spec(None);
    burn_in.sharing.hosts.gpu = Some(marquee_domain::spec::OneGpu {
        worker: WorkerId(uuid::Uuid::nil()),
        uuid: "GPU-a".into(),
    });
    assert_eq!(startable(&burn_in, knows(true)), Ok(()));
    let older = Knows {
        burn_in: false,
        ..knows(true)
    };
    let refused = startable(&burn_in, older).unwrap_err();
    assert!(refused.message.contains("upgrade the worker"));
    // A second try would end the same way.
    assert!(!refused.class.is_worth_a_retry());
}

#[test]
fn a_worker_that_knows_nothing_of_secrets_is_not_given_a_job_that_names_some() {
    let mut rank = stored(0, 1, None);
    let mut names_one = spec(None);
    names_one
        .sharing
        .secrets
        .insert("HF_TOKEN".parse().unwrap());
    rank.spec = Ok(names_one);
    let older = Knows {
        secrets: false,
        burn_in: false,
        ..knows(true)
    };
    let failure = at_once(&rank, older).unwrap_err();
    assert!(
        failure.message.contains("upgrade the worker"),
        "{failure:?}"
    );
    assert!(
        failure.class.rule().is_retried,
        "another worker may have it"
    );
    let message = at_once(&rank, knows(true)).unwrap();
    assert!(
        message.spec_json.contains("HF_TOKEN"),
        "its name, for the worker to ask"
    );
    assert!(at_once(&stored(0, 1, None), older).is_ok());
}

#[test]
fn hosts_are_counted_by_their_first_ranks_and_ranks_on_one_in_their_order() {
    // Ranks 0, 1 on host 9, rank 2 on host 4, rank 3 on host 9 again.
    let ranks = [on(0, 9), on(1, 9), on(2, 4), on(3, 9)];
    let shown = |rank: u32| {
        let group = group(&ranks, key(rank)).unwrap();
        let local = group.local_ranks.into_iter();
        let devices: Vec<v1::Device> = local.flat_map(|local| local.devices).collect();
        (group.rank, group.size, devices)
    };
    let gpus =
        |indices: &[u32]| -> Vec<v1::Device> { indices.iter().map(|index| gpu(*index)).collect() };
    assert_eq!(shown(0), (0, 2, gpus(&[0, 1, 3])));
    assert_eq!(shown(3), (0, 2, gpus(&[0, 1, 3])));
    assert_eq!(shown(2), (1, 2, gpus(&[2])));
    assert!(group(&ranks, key(4)).is_none(), "it is not among them");
    assert!(group(&[], key(0)).is_none());
}

#[test]
fn a_rank_alone_is_a_group_of_itself() {
    let group = alone(&stored(0, 1, None));
    assert_eq!((group.rank, group.size, group.local_ranks.len()), (0, 1, 1));
    assert_eq!(group.local_ranks[0].devices, [gpu(5)]);
}

#[test]
fn only_a_rank_alone_is_started_by_its_assignment_and_only_where_the_worker_knows_how() {
    for (world_size, start, starts) in [(1, true, true), (1, false, false), (4, true, false)] {
        let assign = at_once(&stored(0, world_size, None), knows(start)).unwrap();
        assert_eq!(assign.start, starts, "{world_size} {start}");
        assert_eq!(
            (assign.job_id, assign.attempt, assign.pipeline_id),
            (7, 2, 3)
        );
        assert!(assign.inputs.is_empty() && assign.resume.is_none());
        let again: JobSpec = serde_json::from_str(&assign.spec_json).unwrap();
        assert_eq!(again, spec(None), "the worker reads what was stored");
    }
}

#[test]
fn a_meeting_place_is_kept_by_rank_0_and_its_stand_in_where_that_may_be_needed() {
    let hosts = |rank, world_size, min_ranks| {
        at_once(&stored(rank, world_size, min_ranks), knows(true))
            .unwrap()
            .hosts_rendezvous
    };
    assert!(!hosts(0, 1, None), "one alone meets nobody");
    assert!(hosts(0, 4, None));
    assert!(!hosts(1, 4, None));
    assert!(
        !hosts(2, 4, None),
        "without min_ranks the gang ends with rank 0"
    );
    assert!(hosts(2, 4, Some(2)));
    assert!(!hosts(3, 4, Some(2)));
    assert!(!hosts(2, 1, Some(1)));
}

#[test]
fn what_cannot_be_read_ends_the_attempt_with_the_way_out() {
    let odd = Assignment {
        spec: Err("missing field `work`".into()),
        ..stored(0, 1, None)
    };
    let failure = at_once(&odd, knows(true)).unwrap_err();
    assert_eq!(failure.class, FailureClass::BadInput);
    assert!(
        failure.message.contains("missing field `work`"),
        "{}",
        failure.message
    );
    assert!(
        failure.message.ends_with("submit it again"),
        "{}",
        failure.message
    );
}
