//! What differs between the two releases of tch that these sources are built with: 0.24 for libtorch
//! 2.11, and 0.13 for libtorch 2.0, the last with kernels for Kepler GPUs.
//!
//! Invariant: `libtorch_2_0` is asked for here and, but for tests that it cannot pass, nowhere else in
//! Rust. What the C++ shim has to tell apart is in `shim/versions.hpp`.

use marquee_domain::spec::GradientCompression;
use tch::{TchError, Tensor};

use crate::error::RunError;

/// Whether gradients travel as bfloat16, which Gloo of libtorch 2.0 cannot add.
pub(crate) fn half_gradients(asked: GradientCompression) -> Result<bool, RunError> {
    match asked {
        GradientCompression::None => Ok(false),
        GradientCompression::Bf16 if cfg!(libtorch_2_0) => Err(RunError::user(
            "gradient_compression = \"bf16\" does not work with libtorch 2.0, which this host's trainer is \
             built with; leave it out, or run the job on hosts with newer GPUs",
        )),
        GradientCompression::Bf16 => Ok(true),
    }
}

/// Why there is no NCCL, if there is none: its shared object is made for libtorch 2.11.
pub(crate) fn has_nccl() -> Result<(), String> {
    if cfg!(libtorch_2_0) {
        return Err(
            "the trainer for Kepler GPUs has no libmarquee_nccl.so: its ranks exchange by Gloo"
                .to_owned(),
        );
    }
    Ok(())
}

/// `softmax(queries keys^T / sqrt(width)) values`, for `[N, heads, tokens, width]` each.
pub(crate) fn attention(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
) -> Result<Tensor, TchError> {
    #[cfg(libtorch_2_0)]
    {
        // tch 0.13 cannot leave the mask out.
        let width = queries.size().last().copied().unwrap_or(1);
        let scale = 1.0 / f64::from(u32::try_from(width).unwrap_or(u32::MAX)).sqrt();
        let likeness = queries
            .f_mul_scalar(scale)?
            .f_matmul(&keys.f_transpose(-2, -1)?)?;
        likeness.f_softmax(-1, likeness.kind())?.f_matmul(values)
    }
    #[cfg(not(libtorch_2_0))]
    Tensor::f_scaled_dot_product_attention(
        queries,
        keys,
        values,
        None::<&Tensor>,
        0.0,
        false,
        None::<f64>,
        false,
    )
}
