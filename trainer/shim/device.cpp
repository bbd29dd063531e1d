// What a GPU is doing: events on its stream, its memory, the wait until it is idle.
//
// By libtorch's own virtual interfaces, which its CUDA half registers with when it is loaded: so this
// compiles, and links, without CUDA. On a host without that half each call is an error.

#include "guard.hpp"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <ATen/ops/empty.h>

// The release with kernels for Kepler GPUs has neither statistics of memory nor times of events behind
// its interfaces.
#if !MARQUEE_LIBTORCH_2_0
#include <c10/core/CachingDeviceAllocator.h>
#endif

#include <chrono>
#include <cstdlib>
#include <optional>

using marquee::guarded;
using marquee::TensorPtr;

namespace {

at::Device cuda(int index) {
  return at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
}

c10::Stream current_stream(int index) {
  return c10::impl::VirtualGuardImpl(at::kCUDA).getStream(cuda(index));
}

// An event, and when it was asked for.
struct Mark {
  c10::Event event = c10::Event(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT);
  std::chrono::steady_clock::time_point asked;
};

Mark& mark(void* handle) {
  return *static_cast<Mark*>(handle);
}

const Mark& mark(const void* handle) {
  return *static_cast<const Mark*>(handle);
}

#if !MARQUEE_LIBTORCH_2_0
c10::DeviceAllocator& allocator() {
  auto* found = dynamic_cast<c10::DeviceAllocator*>(at::detail::getCUDAHooks().getCUDADeviceAllocator());
  TORCH_CHECK(found != nullptr, "the allocator of GPU memory keeps no statistics");
  return *found;
}

int64_t peak_of(const c10::CachingAllocator::StatArray& stats) {
  return stats[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
}
#endif

} // namespace

extern "C" {

// Sets a variable of the environment unless it is set. Only before a second thread exists.
int marquee_set_default(const char* name, const char* value) {
  return guarded([&] { TORCH_CHECK(setenv(name, value, /*overwrite=*/0) == 0, "cannot set ", name); });
}

// A mark that can be set on a GPU's stream, with the time at which the GPU comes to it.
int marquee_event_new(void** out) {
  return guarded([&] { *out = new Mark(); });
}

void marquee_event_free(void* event) {
  guarded([&] { delete &mark(event); });
}

// Sets the mark behind all that GPU `index` was asked for so far by this thread.
int marquee_event_record(void* event, int index) {
  return guarded([&] {
    mark(event).event.record(current_stream(index));
    mark(event).asked = std::chrono::steady_clock::now();
  });
}

// Writes 1 to `passed` if the GPU has come to the mark, else 0. Does not wait.
int marquee_event_query(const void* event, int* passed) {
  return guarded([&] { *passed = mark(event).event.query() ? 1 : 0; });
}

// Milliseconds between two marks that the GPU has passed.
int marquee_event_elapsed(const void* from, const void* to, double* milliseconds) {
  return guarded([&] {
#if MARQUEE_LIBTORCH_2_0
    *milliseconds = std::chrono::duration<double, std::milli>(mark(to).asked - mark(from).asked).count();
#else
    *milliseconds = mark(from).event.elapsedTime(mark(to).event);
#endif
  });
}

// Writes a copy of a tensor in memory that GPUs copy from and to by themselves.
int marquee_pin(TensorPtr tensor, TensorPtr* out) {
  return guarded([&] { *out = new at::Tensor(marquee::tensor(tensor).pin_memory()); });
}

// Writes a copy of a CPU tensor on GPU `index`. It is copied beside what the GPU computes, from pinned
// memory, and nobody waits for it but what is asked of the GPU from here on.
int marquee_upload(TensorPtr tensor, int index, TensorPtr* out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    c10::impl::VirtualGuardImpl gpu(at::kCUDA);
    auto device = cuda(index);
    // One stream of copies a thread; it lives as long as the process.
    thread_local std::optional<c10::Stream> copies;
    if (!copies.has_value() || copies->device() != device) {
      copies = gpu.getStreamFromGlobalPool(device);
    }
    const auto& source = marquee::tensor(tensor);
    auto pinned = source.is_pinned() ? source : source.pin_memory();
    auto computing = gpu.getStream(device);
    at::Tensor copy;
    c10::Event done(at::kCUDA);
    {
      c10::StreamGuard guard(*copies);
      copy = pinned.to(device, pinned.scalar_type(), /*non_blocking=*/true, /*copy=*/true);
      done.record(*copies);
    }
    done.block(computing);
    // Its memory belongs to the stream of copies: it must not be given out again while the other
    // stream still reads it.
    gpu.recordDataPtrOnStream(copy.storage().data_ptr(), computing);
    *out = new at::Tensor(std::move(copy));
  });
}

// Writes a copy of a tensor on a GPU in pinned memory, which holds it once the GPU has come to a mark
// that is set after this.
int marquee_download(TensorPtr tensor, TensorPtr* out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const auto& source = marquee::tensor(tensor);
    auto copy = at::empty(source.sizes(), source.options().device(at::kCPU).pinned_memory(true));
    copy.copy_(source, /*non_blocking=*/true);
    *out = new at::Tensor(std::move(copy));
  });
}

// Returns when GPU `index` has done all that it was asked for.
int marquee_gpu_synchronize(int index) {
  return guarded([&] { at::detail::getCUDAHooks().deviceSynchronize(static_cast<c10::DeviceIndex>(index)); });
}

// The most bytes of GPU `index` that tensors held at once, and that libtorch held for them.
int marquee_gpu_peak_memory(int index, int64_t* allocated, int64_t* reserved) {
  return guarded([&] {
#if MARQUEE_LIBTORCH_2_0
    (void)index;
    (void)allocated;
    (void)reserved;
    TORCH_CHECK(false, "this libtorch does not tell");
#else
    auto stats = allocator().getDeviceStats(static_cast<c10::DeviceIndex>(index));
    *allocated = peak_of(stats.allocated_bytes);
    *reserved = peak_of(stats.reserved_bytes);
#endif
  });
}

} // extern "C"
