// See ../context.h. A device is made and used inside libtorch alone.
#pragma once

#include <memory>
#include <string>

namespace gloo {
namespace transport {

class Device;

class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = default;
};

} // namespace transport
} // namespace gloo
