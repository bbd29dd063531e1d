//! What a training step computes in the shim: the backward pass, gradients, the optimizer.

use std::ffi::c_int;
use std::ptr;

use tch::Tensor;

use super::gpu::Mark;
use super::{Handle, check, pointer, pointers};
use crate::error::TorchError;

unsafe extern "C" {
    fn marquee_backward(
        loss: Handle,
        computed: Handle,
        index: c_int,
        compute_s: *mut f64,
        waiting_s: *mut f64,
    ) -> c_int;

    fn marquee_clip_gradients(parameters: *const Handle, count: usize, max_norm: f64) -> c_int;
    fn marquee_move_towards(
        means: *const Handle,
        parameters: *const Handle,
        count: usize,
        weight: f64,
    ) -> c_int;
    fn marquee_unscale_gradients(
        parameters: *const Handle,
        count: usize,
        inverse_scale: Handle,
        found: Handle,
    ) -> c_int;
    fn marquee_forget_gradients(parameters: *const Handle, count: usize) -> c_int;
    fn marquee_sgd_step(
        parameters: *const Handle,
        momenta: *const Handle,
        count: usize,
        lr: f64,
        momentum: f64,
        weight_decay: f64,
        nesterov: c_int,
        first_step: c_int,
        found: Handle,
    ) -> c_int;
    fn marquee_adamw_step(
        parameters: *const Handle,
        averages: *const Handle,
        squares: *const Handle,
        steps: *const Handle,
        count: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        found: Handle,
    ) -> c_int;
}

/// How long a backward pass took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BackwardTimes {
    /// Until the last gradient of this rank was computed.
    pub(crate) compute_s: f64,
    /// From then until the all-reduce was done.
    pub(crate) waiting_s: f64,
}

/// Runs the backward pass of `loss`. On GPUs the times are those in which it was asked for.
pub(crate) fn backward(loss: &Tensor) -> Result<BackwardTimes, TorchError> {
    backward_marked(loss, None)
}

/// The same; sets a mark of a GPU's once its last gradient is computed.
pub(crate) fn backward_marked(
    loss: &Tensor,
    computed: Option<(&Mark, usize)>,
) -> Result<BackwardTimes, TorchError> {
    let (mark, index) = computed.map_or((ptr::null_mut(), 0), |(mark, index)| {
        (mark.handle(), c_int::try_from(index).unwrap_or(c_int::MAX))
    });
    let mut times = BackwardTimes {
        compute_s: 0.0,
        waiting_s: 0.0,
    };
    // SAFETY: the tensor, the mark and both numbers outlive the call.
    check(unsafe {
        marquee_backward(
            pointer(loss),
            mark,
            index,
            &raw mut times.compute_s,
            &raw mut times.waiting_s,
        )
    })?;
    Ok(times)
}

/// The same where nobody wants to know how long it took.
pub(crate) fn backward_untimed(loss: &Tensor) -> Result<(), TorchError> {
    // SAFETY: the tensor outlives the call; null pointers ask for no times.
    check(unsafe {
        marquee_backward(
            pointer(loss),
            ptr::null_mut(),
            0,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    })
}

/// Scales the gradients of `parameters` down to a norm, over all of them, of `max_norm` at most.
pub(crate) fn clip_gradients(parameters: &[Tensor], max_norm: f64) -> Result<(), TorchError> {
    let list = pointers(parameters);
    // SAFETY: all are live for the call.
    check(unsafe { marquee_clip_gradients(list.as_ptr(), list.len(), max_norm) })
}

/// Moves each of `means` by the share `weight` of the way to its parameter.
pub(crate) fn move_towards(
    means: &[Tensor],
    parameters: &[Tensor],
    weight: f64,
) -> Result<(), TorchError> {
    assert!(means.len() == parameters.len(), "one mean a parameter");
    let (list, targets) = (pointers(means), pointers(parameters));
    // SAFETY: both lists have `count` live tensors, as asserted.
    check(unsafe { marquee_move_towards(list.as_ptr(), targets.as_ptr(), list.len(), weight) })
}

/// Multiplies the gradients of `parameters` by `inverse_scale`; writes 1 to `found` if one of them
/// is not finite.
pub(crate) fn unscale_gradients(
    parameters: &[Tensor],
    inverse_scale: &Tensor,
    found: &Tensor,
) -> Result<(), TorchError> {
    let list = pointers(parameters);
    // SAFETY: all are live for the call.
    check(unsafe {
        marquee_unscale_gradients(
            list.as_ptr(),
            list.len(),
            pointer(inverse_scale),
            pointer(found),
        )
    })
}

/// Drops the gradients of `parameters`.
pub(crate) fn forget_gradients(parameters: &[Tensor]) -> Result<(), TorchError> {
    let list = pointers(parameters);
    // SAFETY: all are live for the call.
    check(unsafe { marquee_forget_gradients(list.as_ptr(), list.len()) })
}

/// Hyper-parameters of one step of SGD.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SgdStep {
    pub(crate) lr: f64,
    pub(crate) momentum: f64,
    pub(crate) weight_decay: f64,
    pub(crate) nesterov: bool,
    /// Whether `momenta` hold nothing yet.
    pub(crate) first: bool,
}

/// Steps `parameters` along their gradients. `momenta` has one tensor a parameter, or none at all.
/// Where `found` holds 1 nothing happens, which only the device notices.
pub(crate) fn sgd_step(
    parameters: &[Tensor],
    momenta: &[Tensor],
    step: SgdStep,
    found: Option<&Tensor>,
) -> Result<(), TorchError> {
    assert!(
        momenta.is_empty() || momenta.len() == parameters.len(),
        "one momentum a parameter"
    );
    let (list, buffers) = (pointers(parameters), pointers(momenta));
    let buffers_or_null = if buffers.is_empty() {
        ptr::null()
    } else {
        buffers.as_ptr()
    };
    // SAFETY: all lists have `count` live tensors, as asserted.
    check(unsafe {
        marquee_sgd_step(
            list.as_ptr(),
            buffers_or_null,
            list.len(),
            step.lr,
            step.momentum,
            step.weight_decay,
            c_int::from(step.nesterov),
            c_int::from(step.first),
            found.map_or(ptr::null_mut(), pointer),
        )
    })
}

/// Hyper-parameters of one step of AdamW.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamWStep {
    pub(crate) lr: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
}

/// State of AdamW: one tensor a parameter in each list.
#[derive(Debug)]
pub(crate) struct AdamWState {
    pub(crate) averages: Vec<Tensor>,
    pub(crate) squares: Vec<Tensor>,
    /// Number of the step to come, from 1, as f32 scalars.
    pub(crate) steps: Vec<Tensor>,
}

/// Steps `parameters` along their gradients, unless `found` holds 1, as above.
pub(crate) fn adamw_step(
    parameters: &[Tensor],
    state: &AdamWState,
    step: AdamWStep,
    found: Option<&Tensor>,
) -> Result<(), TorchError> {
    let count = parameters.len();
    assert!(
        state.averages.len() == count && state.squares.len() == count && state.steps.len() == count,
        "one state a parameter"
    );
    let list = pointers(parameters);
    let (averages, squares) = (pointers(&state.averages), pointers(&state.squares));
    let steps = pointers(&state.steps);
    // SAFETY: all lists have `count` live tensors, as asserted.
    check(unsafe {
        marquee_adamw_step(
            list.as_ptr(),
            averages.as_ptr(),
            squares.as_ptr(),
            steps.as_ptr(),
            count,
            step.lr,
            step.beta1,
            step.beta2,
            step.weight_decay,
            step.eps,
            found.map_or(ptr::null_mut(), pointer),
        )
    })
}
