// Stand-ins for the few gloo types that libtorch's ProcessGroupGloo.hpp names. PyPI's wheel ships
// libtorch without gloo's headers. Only shared pointers to these types cross between our code and
// libtorch's, so no member layout matters; the one function called is defined inside libtorch_cpu.
#pragma once

#include <chrono>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

} // namespace gloo
