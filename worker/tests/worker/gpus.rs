//! GPUs, through the real path into `libnvidia-ml.so.1` (see [`crate::nvml`]).

use std::os::unix::fs::PermissionsExt as _;

use marquee_proto::v1;
use marquee_proto::v1::coordinator_message::Body as ToWorker;
use marquee_proto::v1::report::Body;

use crate::daemon::{Assigned, Daemon, run, shell, start};
use crate::fake::{Fake, State};
use crate::nvml::{FakeNvml, K80};

fn reading(state: &State, index: u32) -> v1::GpuReading {
    let found = state.gpus.iter().find(|gpu| gpu.index == index);
    found.cloned().unwrap_or_default()
}

async fn until_read(fake: &Fake) {
    fake.until("readings", |state| {
        !state.gpus.is_empty() && state.gpus.iter().all(|gpu| gpu.at.is_some())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_dies_of_a_k80_are_offered_and_say_what_nvidia_smi_shows() {
    let fake = Fake::start().await;
    let nvml = FakeNvml::new(K80);
    let _daemon = Daemon::start_in(&fake, &[], nvml.env());
    until_read(&fake).await;
    let state = fake.state();
    let gpus = &state.hellos[0].inventory.as_ref().unwrap().gpus;
    let offered: Vec<_> = gpus
        .iter()
        .map(|gpu| {
            (
                gpu.uuid.as_str(),
                gpu.memory_bytes,
                gpu.compute_major,
                gpu.compute_minor,
            )
        })
        .collect();
    assert_eq!(
        offered,
        [
            ("GPU-k80-a", 11_996_954_624, 3, 7),
            ("GPU-k80-b", 11_996_954_624, 3, 7)
        ]
    );
    let expected = v1::GpuReading {
        index: 0,
        uuid: "GPU-k80-a".into(),
        name: "Tesla K80".into(),
        at: reading(&state, 0).at,
        utilisation_percent: Some(97),
        memory_utilisation_percent: Some(41),
        memory_used_bytes: Some(2_147_483_648),
        memory_total_bytes: Some(11_996_954_624),
        power_mw: Some(139_400),
        power_limit_mw: Some(149_000),
        temperature_c: Some(71),
        slowdown_temperature_c: Some(93),
        sm_clock_mhz: Some(823),
        sm_clock_max_mhz: Some(875),
        memory_clock_mhz: Some(2_505),
        memory_clock_max_mhz: Some(2_505),
        throttle_reasons: vec!["power cap".into()],
        ecc_enabled: Some(true),
        ecc_corrected_volatile: Some(3),
        ecc_uncorrected_volatile: Some(0),
        ecc_corrected_aggregate: Some(1_200),
        ecc_uncorrected_aggregate: Some(1),
        xid_source: "events".into(),
        processes: vec![v1::GpuProcess {
            pid: 4242,
            name: "marquee-trainer".into(),
            memory_bytes: Some(2_097_152_000),
        }],
        pcie_generation: Some(3),
        pcie_generation_max: Some(3),
        pcie_width: Some(8),
        pcie_width_max: Some(16),
        pci_bus_id: "00000000:0A:00.0".into(),
        driver_version: "470.256.02".into(),
        cuda_version: "11.4".into(),
        persistence_mode: Some(false),
        compute_mode: "default".into(),
        performance_state: "P0".into(),
        ..v1::GpuReading::default()
    };
    assert_eq!(reading(&state, 0), expected);
    // The other die has no ECC, no fan, no known power: unset, and no fault.
    let other = reading(&state, 1);
    assert_eq!(
        (
            other.ecc_enabled,
            other.power_mw,
            other.fan_percent,
            other.fault.as_str()
        ),
        (None, None, None, "")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_was_given_one_gpu_offers_and_uses_no_other() {
    let fake = Fake::start().await;
    let nvml = FakeNvml::new(K80);
    let mut env = nvml.env();
    env.push(("CUDA_VISIBLE_DEVICES".into(), "1".into()));
    let _daemon = Daemon::start_in(&fake, &[], env);
    until_read(&fake).await;
    let state = fake.state();
    let gpus = &state.hellos[0].inventory.as_ref().unwrap().gpus;
    let offered: Vec<_> = gpus
        .iter()
        .map(|gpu| (gpu.index, gpu.uuid.as_str()))
        .collect();
    assert_eq!(
        offered,
        [(1, "GPU-k80-b")],
        "the host's first GPU is somebody else's"
    );
    let read: Vec<u32> = state.gpus.iter().map(|gpu| gpu.index).collect();
    assert_eq!(read, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_from_before_510_is_enough() {
    let fake = Fake::start().await;
    let nvml = FakeNvml::of_an_old_driver(K80);
    // Its own program is asked for what that driver's library does not tell the wrapper.
    let bin = tempfile::tempdir().unwrap();
    let smi = bin.path().join("nvidia-smi");
    std::fs::write(
        &smi,
        "#!/bin/sh\ncase \"$*\" in *memory.total*GPU-k80-*) echo 11441;; esac\n",
    )
    .unwrap();
    std::fs::set_permissions(&smi, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut env = nvml.env();
    let path = std::env::var("PATH").unwrap();
    env.push(("PATH".into(), format!("{}:{path}", bin.path().display())));
    let _daemon = Daemon::start_in(&fake, &[], env);
    until_read(&fake).await;
    let first = reading(&fake.state(), 0);
    assert_eq!(first.fault, "");
    assert_eq!(first.memory_total_bytes, Some(11_441 << 20));
    assert_eq!(
        first.memory_used_bytes,
        Some(2_097_152_000),
        "the sum over its processes"
    );
    assert_eq!(first.processes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_falls_off_the_bus_is_ill_until_it_answers_again() {
    let fake = Fake::start().await;
    let nvml = FakeNvml::new(K80);
    let _daemon = Daemon::start_in(&fake, &[], nvml.env());
    until_read(&fake).await;
    // NVML_ERROR_GPU_IS_LOST.
    nvml.say("1.return 15");
    fake.until("a fault", |state| !reading(state, 1).fault.is_empty())
        .await;
    let ill = reading(&fake.state(), 1);
    assert!(
        ill.fault
            .starts_with("does not answer NVML: device fell off the bus"),
        "{ill:?}"
    );
    assert!(
        ill.cure.contains("nvidia-smi --gpu-reset -i GPU-k80-b"),
        "{ill:?}"
    );
    assert_eq!(
        ill.utilisation_percent, None,
        "what was true of it is not any more"
    );
    assert_eq!(reading(&fake.state(), 0).fault, "", "its neighbour is well");
    nvml.say("1.return 0");
    fake.until("no fault", |state| reading(state, 1).fault.is_empty())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_xid_and_an_uncorrectable_error_are_told_at_once() {
    let fake = Fake::start().await;
    let nvml = FakeNvml::new(K80);
    let _daemon = Daemon::start_in(&fake, &[], nvml.env());
    until_read(&fake).await;
    nvml.say("xid 79\nxid.device 1\nxid.serial 1\n0.ecc.uncorrected.volatile 2");
    fake.until("both faults", |state| {
        !reading(state, 0).fault.is_empty() && !reading(state, 1).fault.is_empty()
    })
    .await;
    let state = fake.state();
    assert_eq!(
        reading(&state, 1).fault,
        "Xid 79: the GPU has fallen off the bus"
    );
    assert_eq!(reading(&state, 1).xids[0].code, 79);
    assert_eq!(
        reading(&state, 0).fault,
        "2 uncorrectable ECC errors since the driver was loaded"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_hangs_holds_nothing_up_and_is_named() {
    let fake = Fake::start().await;
    let nvml = FakeNvml::new(K80);
    let daemon = Daemon::start_in(&fake, &[], nvml.env());
    until_read(&fake).await;
    nvml.say("hang 1");
    // The session goes on: a rank comes, runs and ends meanwhile.
    let key = (1, 1, 0);
    run(&fake, key, shell("true")).await;
    assert!(matches!(fake.until_ended(key).await, Body::Finished(_)));
    fake.until("the verdict", |state| !reading(state, 0).fault.is_empty())
        .await;
    let fault = reading(&fake.state(), 0).fault;
    assert!(fault.contains("last asked about GPU 1"), "{fault}");
    nvml.say("hang -1");
    fake.until("its end", |state| reading(state, 0).fault.is_empty())
        .await;
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_ranks_gpus_become_metrics_of_its_job() {
    let fake = Fake::start().await;
    let nvml = FakeNvml::new(K80);
    let _daemon = Daemon::start_in(&fake, &[], nvml.env());
    let key = (7, 1, 0);
    let mut order = Assigned::new(key, shell("sleep 600")).message();
    order.devices = vec![v1::Device {
        kind: Some(v1::device::Kind::Gpu(0)),
    }];
    fake.tell(ToWorker::Assign(order)).await;
    fake.until_prepared(key).await;
    start(&fake, key, None).await;
    let is_metrics = |body: &Body| matches!(body, Body::Metrics(_));
    fake.until("metrics", |state| crate::fake::has(state, key, is_metrics))
        .await;
    let metrics = fake.bodies(key).into_iter().find_map(|body| match body {
        Body::Metrics(metrics) => Some(metrics.values),
        _ => None,
    });
    let metrics = metrics.unwrap();
    assert_eq!(metrics["gpu/0/utilisation_percent"], 97.0);
    assert_eq!(metrics["gpu/0/power_w"], 139.4);
    assert_eq!(metrics["gpu/0/memory_used_bytes"], 2_147_483_648.0);
    assert!(
        metrics.keys().all(|name| name.starts_with("gpu/0/")),
        "{metrics:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_nvml_offers_cpus_and_speaks_of_no_gpu() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    fake.until("a heartbeat", |state| !state.hellos.is_empty())
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let state = fake.state();
    assert_eq!(state.hellos[0].inventory.as_ref().unwrap().gpus, []);
    assert_eq!((state.hellos[0].gpus.len(), state.gpu_messages), (0, 0));
}

/// A GPU in two instances, one in three shares, and one as it is.
const DIVIDED: &str = "\
driver 580.95.05
cuda 13000
count 3
devices 5
0.uuid GPU-mig
0.name NVIDIA H100
0.capability 90
0.memory_total 85899345920
0.mig 1
0.mig.slots 7
0.mig.1 3
0.mig.4 4
1.uuid GPU-shared
1.name NVIDIA H100
1.capability 90
1.memory_total 85899345920
1.utilisation 30
1.memory_utilisation 10
2.uuid GPU-whole
2.name NVIDIA H100
2.capability 90
2.memory_total 85899345920
3.uuid MIG-a
3.name NVIDIA H100 MIG 1g.10gb
3.memory_total 10200547328
4.uuid MIG-b
4.name NVIDIA H100 MIG 2g.20gb
4.memory_total 20937965568
";

#[tokio::test(flavor = "multi_thread")]
async fn instances_and_shares_are_devices_of_their_own_and_their_gpu_is_none() {
    let fake = Fake::start().await;
    let nvml = FakeNvml::new(DIVIDED);
    let shares = vec![("MARQUEE_WORKER__GPU_SHARES".to_owned(), "1:3".to_owned())];
    let env = nvml.env().into_iter().chain(shares).collect();
    let _daemon = Daemon::start_in(&fake, &[], env);
    until_read(&fake).await;
    let state = fake.state();
    let gpus = &state.hellos[0].inventory.as_ref().unwrap().gpus;
    let offered: Vec<_> = gpus
        .iter()
        .map(|gpu| {
            let part = gpu.part.map(|part| (part.of, part.is_share));
            (gpu.index, gpu.uuid.as_str(), gpu.memory_bytes, part)
        })
        .collect();
    let third = 85_899_345_920 / 3;
    assert_eq!(
        offered,
        [
            (2, "GPU-whole", 85_899_345_920, None),
            (3, "MIG-a", 10_200_547_328, Some((0, false))),
            (4, "MIG-b", 20_937_965_568, Some((0, false))),
            (5, "GPU-shared", third, Some((1, true))),
            (6, "GPU-shared", third, Some((1, true))),
            (7, "GPU-shared", third, Some((1, true))),
        ]
    );
    // A share says what its GPU does; an instance does not tell.
    assert_eq!(reading(&state, 6).utilisation_percent, Some(30));
    assert_eq!(reading(&state, 3).utilisation_percent, None);
    assert_eq!(reading(&state, 3).fault, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_speaks_against_a_gpu_outlasts_its_worker_and_a_users_own_errors_do_not_count() {
    let fake = Fake::start().await;
    let nvml = FakeNvml::new(K80);
    let mut daemon = Daemon::start_in(&fake, &[], nvml.env());
    until_read(&fake).await;
    // A job's own error a hundred times, and one of the device.
    for serial in 1..=100 {
        nvml.say(&format!("xid 13\nxid.device 0\nxid.serial {serial}"));
    }
    nvml.say("xid 79\nxid.device 1\nxid.serial 101\n1.remap_pending 1\n1.remap_failed 0");
    let is_told = |state: &State| reading(state, 1).evidence.len() == 2;
    fake.until("the evidence", is_told).await;
    let told = reading(&fake.state(), 1).evidence;
    let kinds: Vec<(&str, u64)> = told.iter().map(|e| (e.kind.as_str(), e.code)).collect();
    assert!(
        kinds.contains(&("xid", 79)) && kinds.contains(&("memory", 0)),
        "{kinds:?}"
    );
    assert_eq!(reading(&fake.state(), 0).evidence, []);
    assert_eq!(reading(&fake.state(), 0).fault, "");
    assert!(
        reading(&fake.state(), 1)
            .fault
            .contains("wait to be remapped")
    );

    // Killed and started again: the same pieces, as they were, in its first words.
    daemon.kill_9();
    let hellos = fake.state().hellos.len();
    daemon.start_again();
    fake.until("its second Hello", |state| state.hellos.len() > hellos)
        .await;
    fake.until("the evidence again", is_told).await;
    assert_eq!(reading(&fake.state(), 1).evidence, told);
    assert_eq!(reading(&fake.state(), 0).evidence, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_a_gpu_in_instances_is_that_of_each_instance() {
    let fake = Fake::start().await;
    let nvml = FakeNvml::new(DIVIDED);
    nvml.say("3.mig.of 0\n4.mig.of 0");
    let _daemon = Daemon::start_in(&fake, &[], nvml.env());
    until_read(&fake).await;
    nvml.say("xid 95\nxid.device 0\nxid.serial 1");
    let count = |state: &State, index| reading(state, index).evidence.len();
    fake.until("evidence against both", |state| {
        count(state, 3) == 1 && count(state, 4) == 1
    })
    .await;
    assert_eq!(count(&fake.state(), 2), 0);
}
