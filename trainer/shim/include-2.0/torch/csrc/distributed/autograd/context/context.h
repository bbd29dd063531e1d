// Stand-in for a header that libtorch 2.0's reducer.hpp includes and PyPI's wheel does not carry. Of
// these types the Reducer holds pointers alone, all of them null: no distributed autograd runs here.
#pragma once

#include <functional>
#include <memory>

namespace torch {
namespace distributed {
namespace autograd {

class DistAutogradContext {
 public:
  using GradCallback = std::function<bool(at::Tensor&)>;
};

using ContextPtr = std::shared_ptr<DistAutogradContext>;

} // namespace autograd
} // namespace distributed
} // namespace torch
