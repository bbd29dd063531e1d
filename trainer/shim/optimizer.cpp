// Optimizer steps by libtorch's fused kernels, where it has them (see plain_steps.hpp). Their state is the caller's: plain tensors that it saves and
// restores, which torch::optim's own classes do not allow from outside C++.

#include "guard.hpp"

#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_norm.h>

#if MARQUEE_LIBTORCH_2_0
#include "plain_steps.hpp"
#else
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#endif

using marquee::guarded;
using marquee::TensorPtr;

namespace {

std::vector<at::Tensor> gradients(const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> list;
  list.reserve(parameters.size());
  for (const auto& parameter : parameters) {
    TORCH_CHECK(parameter.grad().defined(), "a parameter of shape ", parameter.sizes(), " got no gradient");
    list.push_back(parameter.grad());
  }
  return list;
}

#if MARQUEE_LIBTORCH_2_0
// Whether `found` says that a gradient is not finite, for which the step is left out.
bool is_left_out(TensorPtr found) {
  return found != nullptr && marquee::tensor(found).item<float>() != 0.0F;
}
#else
std::optional<at::Tensor> optional(TensorPtr tensor) {
  return tensor == nullptr ? std::nullopt : std::optional<at::Tensor>(marquee::tensor(tensor));
}
#endif

void scale(std::vector<at::Tensor>& list, const at::Tensor& factor) {
#if MARQUEE_LIBTORCH_2_0
  marquee::plain_scale(list, factor);
#else
  at::_foreach_mul_(list, factor);
#endif
}

} // namespace

extern "C" {

// `momenta` may be null when `momentum` is 0. On the first step they are overwritten, as PyTorch
// starts them with the first gradient itself. Where `found` is not null and holds 1, nothing is done:
// the device sees to it, and nobody waits for it.
int marquee_sgd_step(
    const TensorPtr* parameters,
    const TensorPtr* momenta,
    size_t count,
    double lr,
    double momentum,
    double weight_decay,
    int nesterov,
    int first_step,
    TensorPtr found) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto list = marquee::tensors(parameters, count);
    auto grads = gradients(list);
    auto buffers = momenta == nullptr ? std::vector<at::Tensor>() : marquee::tensors(momenta, count);
#if MARQUEE_LIBTORCH_2_0
    if (is_left_out(found)) return;
    marquee::plain_sgd(list, grads, buffers, lr, momentum, weight_decay, nesterov != 0, first_step != 0);
#else
    at::_fused_sgd_(
        list, grads, buffers, weight_decay, momentum, lr, /*dampening=*/0.0, nesterov != 0,
        /*maximize=*/false, first_step != 0, /*grad_scale=*/std::nullopt, optional(found));
#endif
  });
}

// `steps` holds the number of this step, counted from 1, for each parameter; `found` as above.
int marquee_adamw_step(
    const TensorPtr* parameters,
    const TensorPtr* averages,
    const TensorPtr* squares,
    const TensorPtr* steps,
    size_t count,
    double lr,
    double beta1,
    double beta2,
    double weight_decay,
    double eps,
    TensorPtr found) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto list = marquee::tensors(parameters, count);
    auto grads = gradients(list);
    auto means = marquee::tensors(averages, count);
    auto mean_squares = marquee::tensors(squares, count);
    auto counts = marquee::tensors(steps, count);
#if MARQUEE_LIBTORCH_2_0
    if (is_left_out(found)) return;
    marquee::plain_adamw(list, grads, means, mean_squares, counts, lr, beta1, beta2, weight_decay, eps);
#else
    at::_fused_adamw_(
        list, grads, means, mean_squares, /*max_exp_avg_sqs=*/std::vector<at::Tensor>(), counts, lr, beta1,
        beta2, weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false, /*grad_scale=*/std::nullopt,
        optional(found));
#endif
  });
}

// Scales all gradients by one factor so that their norm, taken over all of them together, is at most
// `max_norm`; as torch.nn.utils.clip_grad_norm_ does it.
int marquee_clip_gradients(const TensorPtr* parameters, size_t count, double max_norm) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto grads = gradients(marquee::tensors(parameters, count));
    auto norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(grads, 2)), 2);
    auto factor = at::clamp_max(max_norm / (norm + 1e-6), 1.0);
    scale(grads, factor);
  });
}

// Moves each of `means` towards its parameter by the share `weight` of the way.
int marquee_move_towards(
    const TensorPtr* means,
    const TensorPtr* parameters,
    size_t count,
    double weight) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::_foreach_lerp_(marquee::tensors(means, count), marquee::tensors(parameters, count), weight);
  });
}

// Multiplies gradients by `inverse_scale`, and sets `found` to 1 if one is not finite.
int marquee_unscale_gradients(
    const TensorPtr* parameters,
    size_t count,
    TensorPtr inverse_scale,
    TensorPtr found) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto grads = gradients(marquee::tensors(parameters, count));
    at::_amp_foreach_non_finite_check_and_unscale_(
        grads, marquee::tensor(found), marquee::tensor(inverse_scale));
  });
}

// Forgets all gradients. tch's own zero_grad detaches them in place, which gradients that are views
// into the Reducer's buckets refuse.
int marquee_forget_gradients(const TensorPtr* parameters, size_t count) {
  return guarded([&] {
    for (size_t i = 0; i < count; ++i) {
      marquee::tensor(parameters[i]).mutable_grad().reset();
    }
  });
}

} // extern "C"
