// What every function of the shim is wrapped in. No exception may cross into Rust: each is turned
// into a code, and its text is kept for the thread that made the call.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/exception.h>
#include <torch/version.h>

#include <new>
#include <string>
#include <vector>

// Whether this is the libtorch for Kepler GPUs; see versions.hpp.
#define MARQUEE_LIBTORCH_2_0 (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR == 0)

namespace marquee {

// What c10d throws when a peer or the store is gone. (Gloo throws plain exceptions, which
// src/error.rs tells apart by their text.)
#if MARQUEE_LIBTORCH_2_0
using NetworkError = c10d::C10dError;
inline const char* text_of(const NetworkError& error) {
  return error.what();
}
#else
using NetworkError = c10::DistError;
inline const char* text_of(const NetworkError& error) {
  return error.what_without_backtrace();
}
#endif

// Mirrored by `Code` in src/ffi.rs.
enum Code : int { kOk = 0, kFailed = 1, kOutOfMemory = 2, kNetwork = 3 };

std::string& last_error();

inline int keep(Code code, const char* text) {
  last_error() = text;
  return code;
}

template <typename Body>
int guarded(Body&& body) noexcept {
  try {
    body();
    return kOk;
  } catch (const c10::OutOfMemoryError& error) {
    return keep(kOutOfMemory, error.what_without_backtrace());
  } catch (const NetworkError& error) {
    return keep(kNetwork, text_of(error));
  } catch (const c10::Error& error) {
    return keep(kFailed, error.what_without_backtrace());
  } catch (const std::bad_alloc& error) {
    return keep(kOutOfMemory, error.what());
  } catch (const std::exception& error) {
    return keep(kFailed, error.what());
  } catch (...) {
    return keep(kFailed, "unknown C++ exception");
  }
}

// Tensors as tch hands them over: pointers to at::Tensor.
using TensorPtr = void*;

inline at::Tensor& tensor(TensorPtr pointer) {
  return *static_cast<at::Tensor*>(pointer);
}

inline std::vector<at::Tensor> tensors(const TensorPtr* pointers, size_t count) {
  std::vector<at::Tensor> list;
  list.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    list.push_back(tensor(pointers[i]));
  }
  return list;
}

} // namespace marquee
