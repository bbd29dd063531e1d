// Optimizer steps for libtorch 2.0, whose fused kernels are for GPUs alone and do not know SGD. The
// same definitions, operation by operation, as those of torch.optim.
#pragma once

#include "guard.hpp"

namespace marquee {

using TensorList = std::vector<at::Tensor>;

inline void plain_scale(TensorList& list, const at::Tensor& factor) {
  for (auto& tensor : list) {
    tensor.mul_(factor);
  }
}

inline void plain_sgd(
    const TensorList& parameters,
    const TensorList& gradients,
    const TensorList& momenta,
    double lr,
    double momentum,
    double weight_decay,
    bool nesterov,
    bool first_step) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    auto parameter = parameters[i];
    auto direction = gradients[i];
    if (weight_decay != 0.0) {
      direction = direction.add(parameter, weight_decay);
    }
    if (momentum != 0.0) {
      auto average = momenta[i];
      if (first_step) {
        average.copy_(direction);
      } else {
        average.mul_(momentum).add_(direction);
      }
      direction = nesterov ? direction.add(average, momentum) : average;
    }
    parameter.sub_(direction, lr);
  }
}

inline void plain_adamw(
    const TensorList& parameters,
    const TensorList& gradients,
    const TensorList& averages,
    const TensorList& squares,
    const TensorList& steps,
    double lr,
    double beta1,
    double beta2,
    double weight_decay,
    double eps) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    auto parameter = parameters[i];
    const auto& gradient = gradients[i];
    auto average = averages[i];
    auto square = squares[i];
    parameter.mul_(1.0 - lr * weight_decay);
    average.lerp_(gradient, 1.0 - beta1);
    square.mul_(beta2).addcmul_(gradient, gradient, 1.0 - beta2);
    // In double: 1 - beta^step in single would lose half of its digits. Left on the device, so that
    // the host need not wait for it.
    auto step = steps[i].to(at::kDouble);
    auto correction = 1.0 - at::pow(beta1, step);
    auto square_correction = 1.0 - at::pow(beta2, step);
    auto spread = square.sqrt().div_(square_correction.sqrt()).add_(eps);
    parameter.sub_(average.div(spread).mul_(lr / correction));
  }
}

} // namespace marquee
