// For libtorch 2.0, whose store can be told a port alone and listens on every address of the host: a
// packet filter on its socket, so that only what is sent to one address reaches it. The store knows
// no passwords; where it listens is all that protects it.
#pragma once

#include <c10/util/Exception.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

namespace marquee {

// The socket of this process that listens on `port`; -1 if there is none.
inline int listener_on(uint16_t port) {
  auto* folder = ::opendir("/proc/self/fd");
  TORCH_CHECK(folder != nullptr, "cannot list the sockets of this process");
  int found = -1;
  while (auto* entry = ::readdir(folder)) {
    int fd = std::atoi(entry->d_name);
    int listens = 0;
    socklen_t size = sizeof(listens);
    if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens == 0) {
      continue;
    }
    // The port is at the same place for both families.
    sockaddr_in6 address = {};
    size = sizeof(address);
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0 && ntohs(address.sin6_port) == port) {
      found = fd;
      break;
    }
  }
  ::closedir(folder);
  return found;
}

// Drops packets of the socket's version of IP and of the other one, unless they are sent to `host`, an
// address in figures.
inline std::vector<sock_filter> filter_for(const std::string& host) {
  uint32_t words[4] = {};
  bool is_v6 = host.find(':') != std::string::npos;
  TORCH_CHECK(::inet_pton(is_v6 ? AF_INET6 : AF_INET, host.c_str(), words) == 1, host, " is no address");
  // In the header of IP, where the destination is and how many words it has.
  const uint32_t header = static_cast<uint32_t>(SKF_NET_OFF);
  const uint32_t place = is_v6 ? 24 : 16;
  const uint8_t count = is_v6 ? 4 : 1;
  // Instructions from the first comparison of a word to the one that drops.
  uint8_t left = 2 * count;
  std::vector<sock_filter> code = {
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, header),
      BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 4),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, is_v6 ? 6U : 4U, 0, static_cast<uint8_t>(left + 1)),
  };
  for (uint8_t i = 0; i < count; ++i, left -= 2) {
    code.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, header + place + 4U * i));
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohl(words[i]), 0, static_cast<uint8_t>(left - 1)));
  }
  code.push_back(BPF_STMT(BPF_RET | BPF_K, UINT32_MAX));
  code.push_back(BPF_STMT(BPF_RET | BPF_K, 0));
  return code;
}

inline void keep_to_address(const std::string& host, uint16_t port) {
  if (host == "0.0.0.0" || host == "::") {
    return;
  }
  int fd = listener_on(port);
  auto code = filter_for(host);
  sock_fprog program = {static_cast<unsigned short>(code.size()), code.data()};
  TORCH_CHECK(
      fd >= 0 && ::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0,
      "cannot keep the store to ", host, ": the kernel takes no packet filter");
}

} // namespace marquee
