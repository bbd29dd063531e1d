// What differs between the two releases of libtorch that the shim is compiled against: 2.11, and
// 2.0, the last with kernels for Kepler GPUs. Everything that depends on the release is here, in
// address_filter.hpp, plain_steps.hpp and in src/compat.rs.
#pragma once

#include "guard.hpp"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#if MARQUEE_LIBTORCH_2_0
#include "address_filter.hpp"
#endif

#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

namespace marquee {

using GroupPtr = c10::intrusive_ptr<c10d::ProcessGroup>;

// Serves a store at `host`, an address in figures, on a socket that is bound to it already; takes the
// socket over. 2.0 can only be told the port.
inline c10::intrusive_ptr<c10d::TCPStore> serve_store(
    const std::string& host,
    c10d::TCPStoreOptions options,
    int listen_fd) {
  options.isServer = true;
#if MARQUEE_LIBTORCH_2_0
  ::close(listen_fd);
  auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
  keep_to_address(host, options.port);
  return store;
#else
  options.masterListenFd = listen_fd;
  return c10::make_intrusive<c10d::TCPStore>(host, options);
#endif
}

// A group whose one backend so far is `gloo`, for tensors on CPUs.
inline GroupPtr gloo_group(
    const c10::intrusive_ptr<c10d::Store>& store,
    int rank,
    int size,
    const c10::intrusive_ptr<c10d::Backend>& gloo) {
  auto type = c10d::ProcessGroup::BackendType::GLOO;
#if MARQUEE_LIBTORCH_2_0
  auto options = c10::make_intrusive<c10d::ProcessGroup::Options>("gloo");
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, size, options);
  group->setBackend(c10::DeviceType::CPU, type, gloo);
#else
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, size);
  group->setBackend(c10::DeviceType::CPU, type, gloo);
  group->setDefaultBackend(type);
#endif
  return group;
}

// Throws if an exchange between GPUs has failed. 2.0 has no NCCL here and cannot tell.
inline void require_sound([[maybe_unused]] c10d::Backend& nccl) {
#if !MARQUEE_LIBTORCH_2_0
  auto error = nccl.getError();
  TORCH_CHECK_WITH(
      DistBackendError, error == c10d::ErrorType::SUCCESS,
      error == c10d::ErrorType::TIMEOUT ? "NCCL: an exchange took longer than its time-out"
                                        : "NCCL: the exchange with a peer failed");
#endif
}

inline void abort([[maybe_unused]] c10d::Backend& nccl) {
#if !MARQUEE_LIBTORCH_2_0
  nccl.abort();
#endif
}

// Gradients of `parameters` are summed in buckets, and are views into them.
inline std::shared_ptr<c10d::Reducer> reducer_of(
    std::vector<at::Tensor> parameters,
    std::vector<std::vector<size_t>> buckets,
    [[maybe_unused]] std::vector<size_t> limits,
    const GroupPtr& group) {
  auto count = parameters.size();
  return std::make_shared<c10d::Reducer>(
      std::move(parameters),
      std::move(buckets),
#if MARQUEE_LIBTORCH_2_0
      std::move(limits),
#endif
      group,
      std::vector<bool>(count, false),
      c10d::kDefaultBucketBytesCap,
      /*find_unused_parameters=*/false,
      /*gradient_as_bucket_view=*/true,
      std::unordered_map<size_t, std::string>(),
      c10d::kDefaultFirstBucketBytes
#if !MARQUEE_LIBTORCH_2_0
      ,
      /*skip_all_reduce_unused_params=*/false,
      /*use_python_reducer=*/false,
      std::vector<int64_t>()
#endif
  );
}

#if !MARQUEE_LIBTORCH_2_0
// Averages a bucket of gradients as bfloat16: half the bytes on the way. Each is divided before it
// is summed, so that the sum keeps to the range of one rank's numbers.
class Bfloat16Hook : public c10d::CppCommHookInterface<c10::intrusive_ptr<c10d::ProcessGroup>> {
 public:
  using CppCommHookInterface::CppCommHookInterface;

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    auto full = bucket.getBufferRef();
    std::vector<at::Tensor> list = {(full / state_->getSize()).to(at::kBFloat16)};
    auto future = state_->allreduce(list)->getFuture();
    auto widen = [full, half = list[0]](c10::ivalue::Future& done) {
      // Throws what the exchange failed with.
      (void)done.value();
      full.copy_(half);
      return c10::IValue(full);
    };
    return future->then(std::move(widen), c10::TensorType::get());
  }
};
#endif

// Gloo of 2.0 does not add bfloat16; src/compat.rs refuses before this does.
inline void exchange_as_bfloat16(
    [[maybe_unused]] c10d::Reducer& reducer,
    [[maybe_unused]] const GroupPtr& group) {
#if MARQUEE_LIBTORCH_2_0
  TORCH_CHECK(false, "libtorch 2.0 does not exchange bfloat16");
#else
  reducer.register_comm_hook(std::make_unique<Bfloat16Hook>(group));
#endif
}

inline void set_autocast(bool cuda, bool enabled) {
#if MARQUEE_LIBTORCH_2_0
  cuda ? at::autocast::set_enabled(enabled) : at::autocast::set_cpu_enabled(enabled);
#else
  at::autocast::set_autocast_enabled(cuda ? at::kCUDA : at::kCPU, enabled);
#endif
}

inline void set_autocast_type(bool cuda, at::ScalarType type) {
#if MARQUEE_LIBTORCH_2_0
  cuda ? at::autocast::set_autocast_gpu_dtype(type) : at::autocast::set_autocast_cpu_dtype(type);
#else
  at::autocast::set_autocast_dtype(cuda ? at::kCUDA : at::kCPU, type);
#endif
}

// Filling fresh memory with NaN, the default of deterministic runs, is for hunting bugs and costs a
// pass over it. 2.0 does not do it.
inline void leave_fresh_memory_alone() {
#if !MARQUEE_LIBTORCH_2_0
  at::globalContext().setDeterministicFillUninitializedMemory(false);
#endif
}

} // namespace marquee
