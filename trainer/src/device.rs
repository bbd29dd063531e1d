//! Which device a rank computes on, and how many threads it may keep busy.

use marquee_domain::FailureClass;
use marquee_domain::child::ChildSpec;
use marquee_domain::resources::Device as Granted;
use tch::{Cuda, Device};

use crate::error::RunError;
use crate::ffi;

/// The device for `spec`, which was granted devices by its worker. A GPU rank sees its own alone,
/// through `CUDA_VISIBLE_DEVICES`, as number 0.
pub(crate) fn choose(spec: &ChildSpec, world_size: u32) -> Result<Device, RunError> {
    let threads = i32::try_from(spec.threads.max(1)).unwrap_or(1);
    tch::set_num_threads(threads);
    let wants_gpu = spec.devices.iter().any(|device| match device {
        Granted::Gpu { .. } => true,
        Granted::Cpu { .. } => false,
    });
    if !wants_gpu {
        return Ok(Device::Cpu);
    }
    // Before anything asks libtorch about CUDA.
    if !ffi::load_cuda() {
        return Err(RunError::new(
            FailureClass::DeviceFault,
            "the job was given a GPU, but libtorch_cuda.so is not installed beside the trainer's libtorch; \
             install the GPU runtime on this host, or submit with device = \"cpu\"",
        ));
    }
    if !Cuda::is_available() {
        return Err(RunError::new(
            FailureClass::DeviceFault,
            "the job was given a GPU, but libtorch finds none it can use; check the NVIDIA driver with nvidia-smi",
        ));
    }
    if world_size > 1 {
        return Err(RunError::user(
            "several ranks on GPUs need NCCL, which this version does not have yet; use ranks = 1, or \
             device = \"cpu\"",
        ));
    }
    Ok(Device::Cuda(0))
}
