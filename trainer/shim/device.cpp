// What libtorch's CUDA half is told before it is used.

#include "guard.hpp"

#include <cstdlib>

using marquee::guarded;

extern "C" {

// Sets a variable of the environment unless it is set. Only before a second thread exists.
int marquee_set_default(const char* name, const char* value) {
  return guarded([&] { TORCH_CHECK(setenv(name, value, /*overwrite=*/0) == 0, "cannot set ", name); });
}

} // extern "C"
