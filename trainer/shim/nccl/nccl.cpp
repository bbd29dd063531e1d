// NCCL behind a C interface of three functions, in a shared object of its own:
// libmarquee_nccl.so.
//
// The trainer links the CPU half of libtorch alone, so that one binary serves hosts with and without
// GPUs. What needs the CUDA half stands here; the trainer loads it after libtorch_cuda.so, by whose
// symbols it is then resolved. No line of it is CUDA code: a plain C++ compiler builds it.
//
// Invariant: the error text is this object's own (the function below), never the trainer's.

#include "../guard.hpp"

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>

#define MARQUEE_EXPORT __attribute__((visibility("default")))

namespace marquee {

std::string& last_error() {
  thread_local std::string text;
  return text;
}

} // namespace marquee

extern "C" {

// Raised when a function below changes: an object of another version is refused, not called.
MARQUEE_EXPORT int marquee_nccl_interface() {
  return 1;
}

// NCCL's version that this object was compiled for, and that of the one that is loaded, as NCCL
// counts them: 22809 is 2.28.9. Objects of NCCL's own types cross the border with libtorch, so the
// two must agree but for the last part.
MARQUEE_EXPORT int marquee_nccl_versions(int* compiled, int* loaded) {
  return marquee::guarded([&] {
    *compiled = NCCL_VERSION_CODE;
    TORCH_CHECK(ncclGetVersion(loaded) == ncclSuccess, "NCCL does not tell its version");
  });
}

// Text of the last error of the calling thread; valid until its next call into this object.
MARQUEE_EXPORT const char* marquee_nccl_last_error() {
  return marquee::last_error().c_str();
}

// Writes a backend for GPUs into `*backend`. `store` and `backend` point to what the trainer holds:
// a c10::intrusive_ptr<c10d::Store> and an empty c10::intrusive_ptr<c10d::Backend>.
//
// Nothing is exchanged yet: NCCL connects in the first operation. An operation that takes longer
// than `timeout_ms` is ended by a thread of the backend's, which aborts the communicator.
MARQUEE_EXPORT int marquee_nccl_backend(
    const void* store,
    int rank,
    int size,
    int64_t timeout_ms,
    void* backend) {
  return marquee::guarded([&] {
    auto options = c10d::ProcessGroupNCCL::Options::create(/*is_high_priority_stream=*/true);
    options->timeout = std::chrono::milliseconds(timeout_ms);
    *static_cast<c10::intrusive_ptr<c10d::Backend>*>(backend) =
        c10::make_intrusive<c10d::ProcessGroupNCCL>(
            *static_cast<const c10::intrusive_ptr<c10d::Store>*>(store), rank, size, std::move(options));
  });
}

} // extern "C"
