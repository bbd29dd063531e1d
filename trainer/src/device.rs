//! Which device a rank computes on, and how many threads it may keep busy.

use marquee_domain::FailureClass;
use marquee_domain::child::ChildSpec;
use marquee_domain::resources::Device as Granted;
use marquee_domain::spec::Precision;
use tch::{Cuda, Device};

use crate::error::RunError;
use crate::ffi;

/// What libtorch's CUDA half reads from the environment before its first use.
///
/// cuBLAS gives the same bits each time only with a work space of its own for each stream. NCCL's
/// backend ends the whole process when a peer is lost, by default: here it only ends the exchange,
/// and the trainer decides. Its other helpers, which look after a process that hangs, would end it
/// too, or wait a minute to write down what it did.
const VARIABLES: [(&str, &str); 6] = [
    ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
    ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2"),
    ("TORCH_NCCL_ENABLE_MONITORING", "0"),
    ("TORCH_NCCL_DUMP_ON_TIMEOUT", "0"),
    ("TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC", "10"),
    ("TORCH_NCCL_TRACE_BUFFER_SIZE", "0"),
];

/// Sets them, where they are not set. Before there is a second thread.
pub(crate) fn set_environment() {
    for (name, value) in VARIABLES {
        if let Err(error) = ffi::set_default_variable(name, value) {
            tracing::warn!(name, %error, "a variable cannot be set");
        }
    }
}

/// The device for `spec`, which was granted devices by its worker. A GPU rank sees its own alone,
/// through `CUDA_VISIBLE_DEVICES`, as number 0.
pub(crate) fn choose(spec: &ChildSpec) -> Result<Device, RunError> {
    let threads = i32::try_from(spec.threads.max(1)).unwrap_or(1);
    // Before the first operation: libtorch makes its pool then, for all the host's threads, and ranks on one host
    // would fight for them.
    tch::set_num_threads(threads);
    let wants_gpu = spec.devices.iter().any(|device| match device {
        Granted::Gpu { .. } => true,
        Granted::Cpu { .. } => false,
    });
    if !wants_gpu {
        // Also where the host has GPUs: what was not granted is somebody else's.
        return Ok(Device::Cpu);
    }
    first_gpu().map_err(|error| {
        RunError::new(
            error.class,
            format!(
                "the job was given a GPU, but {}; or submit with device = \"cpu\"",
                error.message
            ),
        )
    })
}

/// The first GPU that this process sees, with libtorch's CUDA half loaded.
pub(crate) fn first_gpu() -> Result<Device, RunError> {
    let fault = |message: String| RunError::new(FailureClass::DeviceFault, message);
    // Before anything asks libtorch about CUDA.
    ffi::load_cuda().map_err(|error| {
        fault(format!(
            "libtorch_cuda.so cannot be loaded beside the trainer's libtorch ({error}); install the GPU runtime \
             on this host"
        ))
    })?;
    if !Cuda::is_available() {
        return Err(fault(
            "libtorch finds no GPU that it can use; check the NVIDIA driver with nvidia-smi"
                .to_owned(),
        ));
    }
    Ok(Device::Cuda(0))
}

/// Makes libtorch choose kernels as the job asks for. Those that our models use on CPUs give the same
/// bits each time, whatever it asks for.
pub(crate) fn choose_kernels(
    device: Device,
    deterministic: bool,
    precision: Precision,
) -> Result<(), RunError> {
    let is_cpu = ffi::gpu_index(device).is_none();
    Ok(ffi::choose_kernels(
        deterministic || is_cpu,
        precision == Precision::Tf32,
    )?)
}
