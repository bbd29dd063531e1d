// TorchScript modules that a user brings: loaded, looked into, trained like any other, saved again.

#include "guard.hpp"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <memory>
#include <utility>

using marquee::guarded;
using marquee::TensorPtr;

namespace {

struct Script {
  torch::jit::Module module;
  // In the order of the file, which is the same for everybody who reads it.
  std::vector<std::pair<std::string, at::Tensor>> parameters;
  std::vector<std::pair<std::string, at::Tensor>> buffers;
  std::string fixed;
};

// Operations that behave otherwise while training, and the argument that says which way.
struct Mode {
  const char* operation;
  const char* argument;
};

constexpr Mode kModes[] = {
    {"aten::batch_norm", "training"},
    {"aten::dropout", "train"},
    {"aten::dropout_", "train"},
    {"aten::feature_dropout", "train"},
    {"aten::alpha_dropout", "train"},
};

// The first operation whose way was fixed when the module was traced: a script asks each time.
std::string fixed_mode(torch::jit::Block* block) {
  for (auto* node : block->nodes()) {
    for (const auto& mode : kModes) {
      if (node->kind() != c10::Symbol::fromQualString(mode.operation)) {
        continue;
      }
      auto value = torch::jit::toIValue(node->namedInput(mode.argument));
      if (value && value->isBool()) {
        return std::string(mode.operation + 6) + (value->toBool() ? " (train)" : " (eval)");
      }
    }
    for (auto* inner : node->blocks()) {
      auto found = fixed_mode(inner);
      if (!found.empty()) {
        return found;
      }
    }
  }
  return "";
}

Script& script(void* handle) {
  return *static_cast<Script*>(handle);
}

} // namespace

extern "C" {

// Loads a module to device `cuda` (-1: the CPU), with its floats in double precision where asked.
int marquee_script_load(const char* path, int cuda, int as_double, void** out) {
  return guarded([&] {
    // Without it libtorch watches the first runs and then fuses what it saw: other kernels from some
    // step on, which no run that goes on from a checkpoint could repeat.
    torch::jit::setGraphExecutorOptimize(false);
    auto device = cuda < 0 ? at::Device(at::kCPU)
                           : at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(cuda));
    auto loaded = std::make_unique<Script>(Script{torch::jit::load(path, device), {}, {}, ""});
    if (as_double != 0) {
      loaded->module.to(at::kDouble);
    }
    for (const auto& entry : loaded->module.named_parameters()) {
      loaded->parameters.emplace_back(entry.name, entry.value);
    }
    for (const auto& entry : loaded->module.named_buffers()) {
      loaded->buffers.emplace_back(entry.name, entry.value);
    }
    auto forward = loaded->module.find_method("forward");
    TORCH_CHECK(forward, "it has no method \"forward\"");
    auto graph = forward->graph()->copy();
    torch::jit::Inline(*graph);
    loaded->fixed = fixed_mode(graph->block());
    *out = loaded.release();
  });
}

void marquee_script_free(void* handle) {
  delete static_cast<Script*>(handle);
}

// What tracing fixed to one way of running, such as "dropout (eval)"; empty where nothing was.
const char* marquee_script_fixed(void* handle) {
  return script(handle).fixed.c_str();
}

size_t marquee_script_count(void* handle, int buffers) {
  auto& of = script(handle);
  return buffers != 0 ? of.buffers.size() : of.parameters.size();
}

// Name and tensor number `index`. The tensor is a new handle on the module's own numbers.
int marquee_script_entry(
    void* handle, int buffers, size_t index, const char** name, TensorPtr* out) {
  return guarded([&] {
    auto& of = script(handle);
    const auto& entry = (buffers != 0 ? of.buffers : of.parameters).at(index);
    *name = entry.first.c_str();
    *out = new at::Tensor(entry.second);
  });
}

int marquee_script_forward(void* handle, int training, TensorPtr input, TensorPtr* out) {
  return guarded([&] {
    auto& of = script(handle);
    if (of.module.is_training() != (training != 0)) {
      of.module.train(training != 0);
    }
    auto result = of.module.forward({marquee::tensor(input)});
    TORCH_CHECK(
        result.isTensor(),
        "its forward gives a ",
        result.type()->str(),
        ", but must give one tensor of logits");
    *out = new at::Tensor(result.toTensor());
  });
}

// Writes the module, ready to score; `train()` lets it learn on.
int marquee_script_save(void* handle, const char* path) {
  return guarded([&] {
    auto& of = script(handle);
    of.module.eval();
    of.module.save(path);
  });
}

} // extern "C"
