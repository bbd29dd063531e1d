//! A host whose GPUs were read, and one that is lost.

use marquee_proto::convert::timestamp;
use marquee_proto::v1::{self, GpuReading, Worker};

use super::jobs::now;

/// One K80 at work, one that is ill, and one on a lost host.
#[must_use]
pub fn gpu_workers() -> Vec<Worker> {
    let gpu = |index, name: &str| v1::Gpu {
        index,
        name: name.into(),
        memory_bytes: 12 << 30,
        ..v1::Gpu::default()
    };
    let well = GpuReading {
        index: 0,
        name: "Tesla K80".into(),
        at: Some(timestamp(now())),
        utilisation_percent: Some(97),
        memory_utilisation_percent: Some(41),
        memory_used_bytes: Some(10_200 << 20),
        memory_total_bytes: Some(11_441 << 20),
        power_mw: Some(139_400),
        power_limit_mw: Some(149_000),
        temperature_c: Some(93),
        slowdown_temperature_c: Some(93),
        sm_clock_mhz: Some(562),
        sm_clock_max_mhz: Some(875),
        memory_clock_mhz: Some(2_505),
        memory_clock_max_mhz: Some(2_505),
        throttle_reasons: vec!["heat (hardware)".into(), "power cap".into()],
        ecc_enabled: Some(true),
        ecc_corrected_volatile: Some(3),
        ecc_uncorrected_volatile: Some(0),
        ecc_corrected_aggregate: Some(1_200),
        ecc_uncorrected_aggregate: Some(1),
        xid_source: "events".into(),
        xids: vec![v1::XidError { code: 31, at: None }],
        processes: vec![v1::GpuProcess {
            pid: 4242,
            name: "marquee-trainer".into(),
            memory_bytes: Some(10_100 << 20),
        }],
        pcie_generation: Some(3),
        pcie_generation_max: Some(3),
        pcie_width: Some(8),
        pcie_width_max: Some(16),
        driver_version: "470.256.02".into(),
        cuda_version: "11.4".into(),
        persistence_mode: Some(false),
        compute_mode: "default".into(),
        performance_state: "P0".into(),
        ..GpuReading::default()
    };
    let ill = GpuReading {
        index: 1,
        name: "Tesla K80".into(),
        at: Some(timestamp(now())),
        fault: "does not answer NVML: device fell off the bus".into(),
        cure: "reset it with \"nvidia-smi --gpu-reset -i GPU-1\" as root, or restart the host"
            .into(),
        memory_total_bytes: Some(11_441 << 20),
        ..GpuReading::default()
    };
    let rank = v1::RunningRank {
        job_id: 17,
        job_name: "train".into(),
        attempt: 1,
        rank: 1,
        devices: vec![v1::Device {
            kind: Some(v1::device::Kind::Gpu(0)),
        }],
    };
    let k80 = Worker {
        name: "gpu-03".into(),
        state: v1::WorkerState::Online.into(),
        inventory: Some(v1::Inventory {
            gpus: vec![gpu(0, "Tesla K80"), gpu(1, "Tesla K80")],
            ..v1::Inventory::default()
        }),
        gpus: vec![well, ill],
        ranks: vec![rank],
        ..Worker::default()
    };
    let lost = Worker {
        name: "gpu-04".into(),
        state: v1::WorkerState::Lost.into(),
        inventory: Some(v1::Inventory {
            gpus: vec![gpu(0, "NVIDIA H100 80GB HBM3")],
            ..v1::Inventory::default()
        }),
        ..Worker::default()
    };
    vec![k80, lost]
}
