// What this process is at, for its worker to read; see standing.cpp.
#pragma once

#include <cstdint>

namespace marquee {

// `Phase::AllReduce` of domain/src/pulse.rs: it waits in an exchange for other ranks.
constexpr uint64_t kWaitsForPeers = 5;

// Says that this process is at something else from now on, and gives what it was at before.
uint64_t stand(uint64_t phase);

// Waits for other ranks for as long as this lives.
class Waiting {
 public:
  Waiting() : before_(stand(kWaitsForPeers)) {}
  ~Waiting() {
    stand(before_);
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  uint64_t before_;
};

} // namespace marquee
