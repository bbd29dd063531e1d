// Errors, memory layout and what else of libtorch tch does not show.

#include "guard.hpp"
#include "versions.hpp"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>

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

// The other way round: row by row, channel by channel.
int marquee_to_channels_first(TensorPtr tensor) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto& target = marquee::tensor(tensor);
    target.set_data(target.contiguous(at::MemoryFormat::Contiguous));
  });
}

// From here on this thread computes what is safe to in `half` (1: bfloat16, 0: float16) on CUDA
// devices (1) or CPUs (0), until `marquee_autocast_leave`.
int marquee_autocast_enter(int cuda, int bfloat16) {
  return guarded([&] {
    marquee::set_autocast_type(cuda != 0, bfloat16 != 0 ? at::kBFloat16 : at::kHalf);
    at::autocast::set_autocast_cache_enabled(true);
    marquee::set_autocast(cuda != 0, true);
    at::autocast::increment_nesting();
  });
}

// Weights that were cast are cast anew next time, for a step has changed them by then.
int marquee_autocast_leave(int cuda) {
  return guarded([&] {
    marquee::set_autocast(cuda != 0, false);
    if (at::autocast::decrement_nesting() == 0) {
      at::autocast::clear_cache();
    }
  });
}

// Which kernels libtorch chooses. With `deterministic` those that give the same bits each time, with a
// warning on stderr where it has none; else cuDNN tries for each new shape which of its own is fastest.
// All that our models use on CPUs are of the former kind anyway. With `tf32` GPUs round what products
// and convolutions of fp32 take to 10 bits of mantissa.
int marquee_choose_kernels(int deterministic, int tf32) {
  return guarded([&] {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(deterministic != 0, /*warn_only=*/true);
    marquee::leave_fresh_memory_alone();
    context.setDeterministicCuDNN(deterministic != 0);
    context.setBenchmarkCuDNN(deterministic == 0);
    context.setAllowTF32CuDNN(tf32 != 0);
    context.setAllowTF32CuBLAS(tf32 != 0);
  });
}

} // extern "C"
