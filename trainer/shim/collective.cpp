// libtorch's c10d behind a C interface: the rendezvous store, a Gloo process group on an explicit
// address, and the Reducer, which all-reduces gradients in buckets while backward still runs.
//
// Handles are plain pointers that the caller frees once. Collectives block until they are done,
// fail, or the group's time-out has passed.

#include "guard.hpp"
#include "standing.hpp"
#include "versions.hpp"

#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <c10/core/impl/VirtualGuardImpl.h>

#include <chrono>
#include <memory>

using marquee::guarded;
using marquee::TensorPtr;
using std::chrono::milliseconds;

// Of device.cpp.
extern "C" int marquee_event_record(void* event, int index);

namespace {

struct Store {
  c10::intrusive_ptr<c10d::Store> inner;
};

struct Group {
  c10::intrusive_ptr<c10d::ProcessGroup> inner;
  milliseconds timeout;
  // Of tensors on GPUs; none where Gloo carries those too, or where there are none.
  c10::intrusive_ptr<c10d::Backend> nccl;
};

Group& group_of(void* handle) {
  return *static_cast<Group*>(handle);
}

// NCCL's operations fail on the device, after the call that asked for them has returned; a thread
// of the backend's notices.
void require_sound(const Group& group) {
  if (group.nccl != nullptr) {
    marquee::require_sound(*group.nccl);
  }
}

// Waits here, not only on the device, until the tensor has what the operation gives.
void finish(const c10::intrusive_ptr<c10d::Work>& work, const at::Tensor& tensor, const Group& group) {
  marquee::Waiting waiting;
  if (tensor.is_cpu()) {
    work->wait();
    return;
  }
  work->wait(group.timeout);
  require_sound(group);
}

// Returns when the device of `tensors` has done all that it was asked for.
void synchronize(const std::vector<at::Tensor>& tensors) {
  for (const auto& tensor : tensors) {
    if (!tensor.is_cpu()) {
      c10::impl::VirtualGuardImpl guard(tensor.device().type());
      guard.synchronizeStream(guard.getStream(tensor.device()));
      return;
    }
  }
}

struct Reducer {
  std::shared_ptr<c10d::Reducer> inner;
};

// Bytes of a bucket, as DistributedDataParallel chooses them: a small first one, so that the
// exchange starts early, then large ones.
const std::vector<size_t> kBucketBytes = {c10d::kDefaultFirstBucketBytes, c10d::kDefaultBucketBytesCap};

// Bytes sent at once when weights are copied from rank 0.
constexpr size_t kBroadcastBytes = 250 * 1024 * 1024;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

} // namespace

extern "C" {

// Serves a store on a socket that is bound already; takes the socket over.
int marquee_store_serve(int listen_fd, const char* host, uint16_t port, int64_t timeout_ms, void** out) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    *out = new Store{marquee::serve_store(host, options, listen_fd)};
  });
}

int marquee_store_connect(const char* host, uint16_t port, int64_t timeout_ms, void** out) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    *out = new Store{c10::make_intrusive<c10d::TCPStore>(host, options)};
  });
}

int marquee_store_prefixed(void* store, const char* prefix, void** out) {
  return guarded([&] {
    *out = new Store{c10::make_intrusive<c10d::PrefixStore>(prefix, static_cast<Store*>(store)->inner)};
  });
}

int marquee_store_set(void* store, const char* key, const uint8_t* value, size_t length) {
  return guarded([&] {
    static_cast<Store*>(store)->inner->set(key, std::vector<uint8_t>(value, value + length));
  });
}

// Writes 1 to `present` if the key is there, else 0. Does not wait.
int marquee_store_check(void* store, const char* key, int* present) {
  return guarded([&] { *present = static_cast<Store*>(store)->inner->check({key}) ? 1 : 0; });
}

// Sets `key` to `value` if nobody has set it yet; either way what it then is comes back as bytes,
// to be freed with marquee_bytes_free.
int marquee_store_agree(
    void* store,
    const char* key,
    const uint8_t* value,
    size_t length,
    uint8_t** bytes,
    size_t* count) {
  return guarded([&] {
    auto agreed = static_cast<Store*>(store)->inner->compareSet(
        key, std::vector<uint8_t>(), std::vector<uint8_t>(value, value + length));
    *bytes = new uint8_t[agreed.size()];
    std::copy(agreed.begin(), agreed.end(), *bytes);
    *count = agreed.size();
  });
}

// The value of a key that is there; waits for it up to the store's time-out.
int marquee_store_get(void* store, const char* key, uint8_t** bytes, size_t* count) {
  return guarded([&] {
    auto value = static_cast<Store*>(store)->inner->get(key);
    *bytes = new uint8_t[value.size()];
    std::copy(value.begin(), value.end(), *bytes);
    *count = value.size();
  });
}

void marquee_bytes_free(uint8_t* bytes) {
  delete[] bytes;
}

void marquee_store_free(void* store) {
  guarded([&] { delete static_cast<Store*>(store); });
}

// Joins a Gloo group, for tensors on CPUs. `address` is this rank's own: without it Gloo guesses
// from the host's name, and peers are told to meet us at whatever that resolves to.
int marquee_group_gloo(
    void* store,
    int rank,
    int size,
    const char* address,
    int64_t timeout_ms,
    void** out) {
  return guarded([&] {
    auto options = c10d::ProcessGroupGloo::Options::create(milliseconds(timeout_ms));
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(address));
    auto rendezvous = static_cast<Store*>(store)->inner;
    auto backend = c10::make_intrusive<c10d::ProcessGroupGloo>(rendezvous, rank, size, options);
    auto group = marquee::gloo_group(rendezvous, rank, size, backend);
    *out = new Group{std::move(group), milliseconds(timeout_ms), nullptr};
  });
}

// Lets Gloo carry tensors on GPUs too: it copies each to the CPU and back.
int marquee_group_gpus_by_gloo(void* group) {
  return guarded([&] {
    auto& self = group_of(group);
    auto gloo = self.inner->getBackend(c10::DeviceType::CPU);
    self.inner->setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::GLOO, gloo);
    self.nccl = nullptr;
  });
}

// Lets NCCL carry tensors on GPUs. `make` and `text` are of libmarquee_nccl.so, see shim/nccl.
int marquee_group_gpus_by_nccl(
    void* group,
    void* store,
    int rank,
    int size,
    int (*make)(const void*, int, int, int64_t, void*),
    const char* (*text)()) {
  return guarded([&] {
    auto& self = group_of(group);
    c10::intrusive_ptr<c10d::Store> rendezvous =
        c10::make_intrusive<c10d::PrefixStore>("nccl", static_cast<Store*>(store)->inner);
    c10::intrusive_ptr<c10d::Backend> backend;
    TORCH_CHECK(make(&rendezvous, rank, size, self.timeout.count(), &backend) == 0, text());
    self.inner->setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL, backend);
    self.nccl = std::move(backend);
  });
}

// An error if an exchange between GPUs has failed since the group was formed.
int marquee_group_check(void* group) {
  return guarded([&] { require_sound(group_of(group)); });
}

// Ends what GPUs are exchanging, so that they and whoever waits for them go on, without a result.
// The group is of no use then. Gloo's operations end by themselves.
int marquee_group_abort(void* group) {
  return guarded([&] {
    auto& self = group_of(group);
    if (self.nccl != nullptr) {
      marquee::abort(*self.nccl);
    }
  });
}

// Waits for operations in flight, so it must not be called after one timed out.
void marquee_group_free(void* group) {
  guarded([&] { delete static_cast<Group*>(group); });
}

int marquee_group_allreduce_sum(void* group, TensorPtr tensor) {
  return guarded([&] {
    auto& self = group_of(group);
    std::vector<at::Tensor> list = {marquee::tensor(tensor)};
    finish(self.inner->allreduce(list), list[0], self);
  });
}

int marquee_group_broadcast(void* group, const TensorPtr* tensors, size_t count, int root) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    marquee::Waiting waiting;
    auto list = marquee::tensors(tensors, count);
    auto& self = group_of(group);
    c10d::broadcast_coalesced(self.inner, list, kBroadcastBytes, root);
    synchronize(list);
    require_sound(self);
  });
}

// By Gloo, whatever carries tensors: it notices a lost peer at once.
int marquee_group_barrier(void* group) {
  return guarded([&] {
    marquee::Waiting waiting;
    group_of(group).inner->getBackend(c10::DeviceType::CPU)->barrier()->wait();
  });
}

// Hooks the gradients of `parameters`: from now on each backward pass averages them over the group.
// `bfloat16` is 1 for gradients that travel in half their size.
int marquee_reducer_new(
    void* group,
    const TensorPtr* parameters,
    size_t count,
    int bfloat16,
    void** out) {
  return guarded([&] {
    auto process_group = static_cast<Group*>(group)->inner;
    auto list = marquee::tensors(parameters, count);
    // A peer with another model is found here, by name and shape, not as a hang later.
    c10d::verify_params_across_processes(process_group, list, {});
    auto [buckets, limits] = c10d::compute_bucket_assignment_by_size(list, kBucketBytes);
    // Gradients become ready from the last layer to the first.
    std::reverse(buckets.begin(), buckets.end());
    std::reverse(limits.begin(), limits.end());
    auto reducer =
        marquee::reducer_of(std::move(list), std::move(buckets), std::move(limits), process_group);
    if (bfloat16 != 0) {
      marquee::exchange_as_bfloat16(*reducer, process_group);
    }
    *out = new Reducer{std::move(reducer)};
  });
}

void marquee_reducer_free(void* reducer) {
  guarded([&] { delete static_cast<Reducer*>(reducer); });
}

// Once, after the first backward pass: orders the buckets as gradients became ready in it.
int marquee_reducer_rebuild(void* reducer) {
  return guarded([&] { static_cast<Reducer*>(reducer)->inner->rebuild_buckets(); });
}

// Before each forward pass whose backward pass is to be reduced.
int marquee_reducer_prepare(void* reducer) {
  return guarded([&] {
    auto& inner = static_cast<Reducer*>(reducer)->inner;
    inner->prepare_for_forward();
    inner->prepare_for_backward({});
  });
}

// Runs the backward pass and tells how long its own computation took, and how long it then still
// waited for the all-reduce; on GPUs these are the times in which it was asked for. `computed`, where
// it is not null, is an event of device.cpp that is set on GPU `index` between the two.
//
// The Reducer waits for its buckets in a callback that the autograd engine runs once every node of
// the graph is done. Callbacks run in the order in which they were queued, so one that is queued by
// a hook on the loss itself, the very first thing backward does, runs just before that wait. They run
// on the stream that the caller has, after it has been made to wait for all other streams.
//
// Where nobody wants the times, both pointers may be null: then no clock is read and no hook queued.
int marquee_backward(TensorPtr loss, void* computed, int index, double* compute_s, double* waiting_s) {
  return guarded([&] {
    if (compute_s == nullptr || waiting_s == nullptr) {
      marquee::tensor(loss).backward();
      return;
    }
    auto start = std::chrono::steady_clock::now();
    auto elapsed = std::make_shared<double>(0.0);
    auto& root = marquee::tensor(loss);
    root.register_hook([=](const at::Tensor&) {
      torch::autograd::Engine::get_default_engine().queue_callback([=] {
        *elapsed = seconds_since(start);
        marquee::stand(marquee::kWaitsForPeers);
        if (computed != nullptr) {
          TORCH_CHECK(marquee_event_record(computed, index) == 0, marquee::last_error());
        }
      });
    });
    root.backward();
    *compute_s = *elapsed;
    *waiting_s = seconds_since(start) - *elapsed;
  });
}

} // extern "C"
