// Errors, memory layout and what else of libtorch tch does not show.

#include "guard.hpp"

#include <ATen/Context.h>

namespace marquee {

std::string& last_error() {
  thread_local std::string text;
  return text;
}

} // namespace marquee

using marquee::guarded;
using marquee::TensorPtr;

extern "C" {

// Text of the last error of the calling thread; valid until its next call into the shim.
const char* marquee_last_error() {
  return marquee::last_error().c_str();
}

// Gives a 4-D tensor the channels-last layout in memory, in place: its shape stays the same.
int marquee_to_channels_last(TensorPtr tensor) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto& target = marquee::tensor(tensor);
    target.set_data(target.contiguous(at::MemoryFormat::ChannelsLast));
  });
}

// Makes libtorch choose kernels that give the same bits each time, and warn on stderr where it has
// none. All that our models use on CPUs are such kernels already; GPUs have a few that are not.
int marquee_be_deterministic() {
  return guarded([&] {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
    // Filling fresh memory with NaN, its default, is for hunting bugs and costs a pass over it.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
    at::globalContext().setBenchmarkCuDNN(false);
  });
}

} // extern "C"
