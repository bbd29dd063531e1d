//! What the trainer for Kepler GPUs is built with, and what its hosts run.

use super::{Bundle, Wheel};

/// The last release with kernels for Kepler GPUs, and the one that tch 0.13 works with.
const KEPLER_VERSION: &str = "2.0.1";
const KEPLER_SHA256: &str = "e617b1d0abaf6ced02dbb9486803abfef0d581609b09641b34fa315c9c40766d";

/// What the flavour for Kepler GPUs is built and tested with: as [`super::LIBTORCH`], without CUDA.
pub const LIBTORCH_KEPLER: Bundle = Bundle {
    what: "libtorch 2.0.1",
    folder: "libtorch-2.0.1",
    wheels: &[
        Wheel {
            package: "torch",
            version: KEPLER_VERSION,
            bytes: 619_895_009,
            sha256: KEPLER_SHA256,
            platform: "manylinux1_x86_64",
            keep: &[
                "torch/include/*",
                "torch/version.py",
                "torch/lib/libc10.so",
                // The name that libtorch_cpu.so asks for: the tool that made the wheel has put a
                // hash into it.
                "torch/lib/libgomp-a34b3233.so.1",
                "torch/lib/libtorch.so",
                "torch/lib/libtorch_cpu.so",
            ],
        },
        Wheel {
            package: "nvidia-cuda-runtime-cu11",
            version: "11.7.99",
            bytes: 849_253,
            sha256: "cc768314ae58d2641f07eac350f40f99dcb35719c4faff4bc458a7cd2b119e31",
            platform: "manylinux1_x86_64",
            keep: &["nvidia/cuda_runtime/lib/libcudart.so.11.0"],
        },
        Wheel {
            package: "nvidia-cuda-cupti-cu11",
            version: "11.7.101",
            bytes: 11_845_698,
            sha256: "e0cfd9854e1f2edaa36ca20d21cd0bdd5dcfca4e3b9e130a082e05b33b6c5895",
            platform: "manylinux1_x86_64",
            keep: &["nvidia/cuda_cupti/lib/libcupti.so.11.7"],
        },
    ],
    unpacked_bytes: 570_000_000,
};

/// What a host with Kepler GPUs needs to run, headers left out: the libraries that libtorch loads,
/// where it looks for them.
pub const LIBTORCH_KEPLER_GPU: Bundle = Bundle {
    what: "libtorch 2.0.1 with the libraries of CUDA 11.7",
    folder: "libtorch-2.0.1-cu117",
    wheels: &[
        Wheel {
            package: "torch",
            version: KEPLER_VERSION,
            bytes: 619_895_009,
            sha256: KEPLER_SHA256,
            platform: "manylinux1_x86_64",
            keep: &[
                "torch/version.py",
                "torch/lib/libc10.so",
                "torch/lib/libc10_cuda.so",
                "torch/lib/libcaffe2_nvrtc.so",
                "torch/lib/libnvfuser_codegen.so",
                "torch/lib/libtorch.so",
                "torch/lib/libgomp-a34b3233.so.1",
                "torch/lib/libtorch_cpu.so",
                "torch/lib/libtorch_cuda.so",
                "torch/lib/libtorch_cuda_linalg.so",
            ],
        },
        Wheel {
            package: "nvidia-cuda-runtime-cu11",
            version: "11.7.99",
            bytes: 849_253,
            sha256: "cc768314ae58d2641f07eac350f40f99dcb35719c4faff4bc458a7cd2b119e31",
            platform: "manylinux1_x86_64",
            keep: &["nvidia/cuda_runtime/lib/libcudart.so.11.0"],
        },
        Wheel {
            package: "nvidia-cuda-cupti-cu11",
            version: "11.7.101",
            bytes: 11_845_698,
            sha256: "e0cfd9854e1f2edaa36ca20d21cd0bdd5dcfca4e3b9e130a082e05b33b6c5895",
            platform: "manylinux1_x86_64",
            keep: &["nvidia/cuda_cupti/lib/libcupti.so.11.7"],
        },
        Wheel {
            package: "nvidia-cuda-nvrtc-cu11",
            version: "11.7.99",
            bytes: 21_011_023,
            sha256: "9f1562822ea264b7e34ed5930567e89242d266448e936b85bc97a3370feabb03",
            platform: "manylinux1_x86_64",
            keep: &["nvidia/cuda_nvrtc/lib/*.so*"],
        },
        Wheel {
            package: "nvidia-cudnn-cu11",
            version: "8.5.0.96",
            bytes: 557_141_533,
            sha256: "402f40adfc6f418f9dae9ab402e773cfed9beae52333f6d86ae3107a1b9527e7",
            platform: "manylinux1_x86_64",
            keep: &["nvidia/cudnn/lib/*.so*"],
        },
        Wheel {
            package: "nvidia-cublas-cu11",
            version: "11.10.3.66",
            bytes: 317_097_917,
            sha256: "d32e4d75f94ddfb93ea0a5dda08389bcc65d8916a25cb9f37ac89edaeed3bded",
            platform: "manylinux1_x86_64",
            keep: &[
                "nvidia/cublas/lib/libcublas.so.11",
                "nvidia/cublas/lib/libcublasLt.so.11",
            ],
        },
        Wheel {
            package: "nvidia-cufft-cu11",
            version: "10.9.0.58",
            bytes: 168_405_414,
            sha256: "222f9da70c80384632fd6035e4c3f16762d64ea7a843829cb278f98b3cb7dd81",
            platform: "manylinux1_x86_64",
            keep: &["nvidia/cufft/lib/libcufft.so.10"],
        },
        Wheel {
            package: "nvidia-curand-cu11",
            version: "10.2.10.91",
            bytes: 54_628_716,
            sha256: "eecb269c970fa599a2660c9232fa46aaccbf90d9170b96c462e13bcb4d129e2c",
            platform: "manylinux1_x86_64",
            keep: &["nvidia/curand/lib/libcurand.so.10"],
        },
        Wheel {
            package: "nvidia-cusolver-cu11",
            version: "11.4.0.1",
            bytes: 102_594_907,
            sha256: "72fa7261d755ed55c0074960df5904b65e2326f7adce364cbe4945063c1be412",
            platform: "manylinux1_x86_64",
            keep: &["nvidia/cusolver/lib/libcusolver.so.11"],
        },
        Wheel {
            package: "nvidia-cusparse-cu11",
            version: "11.7.4.91",
            bytes: 173_182_291,
            sha256: "a3389de714db63321aa11fbec3919271f415ef19fda58aed7f2ede488c32733d",
            platform: "manylinux1_x86_64",
            keep: &["nvidia/cusparse/lib/libcusparse.so.11"],
        },
        Wheel {
            package: "nvidia-nccl-cu11",
            version: "2.14.3",
            bytes: 177_099_966,
            sha256: "5e5534257d1284b8e825bc3a182c6f06acd6eb405e9f89d49340e98cd8f136eb",
            platform: "manylinux1_x86_64",
            keep: &["nvidia/nccl/lib/libnccl.so.2"],
        },
        Wheel {
            package: "nvidia-nvtx-cu11",
            version: "11.7.91",
            bytes: 98_579,
            sha256: "b22c64eee426a62fc00952b507d6d29cf62b4c9df7a480fcc417e540e05fd5ac",
            platform: "manylinux1_x86_64",
            keep: &["nvidia/nvtx/lib/libnvToolsExt.so.1"],
        },
    ],
    unpacked_bytes: 3_700_000_000,
};
