// Where this process stands, in a page that its worker reads, and the stacks of its threads, for when it
// hangs. The layout is that of domain/src/pulse.rs.
//
// Plain stores into memory that is mapped: they cost a step nothing, and are read also when a signal holds
// this process up.

#include "standing.hpp"

#include "guard.hpp"

#include <cxxabi.h>
#include <dirent.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Page {
  std::atomic<uint64_t> magic, beats, step, phase, since_ms, answers, spare[2];
};
static_assert(sizeof(Page) == 64, "the layout of domain/src/pulse.rs");

// Where nobody reads, until a file is mapped.
Page nowhere;
std::atomic<Page*> page{&nowhere};

uint64_t now_ms() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1000000;
}

// Frames of one thread: deep enough for autograd's recursion to show whence it came.
constexpr int kFrames = 64;
// How long a thread may take to look at its own stack. One in an uninterruptible wait never does.
constexpr long kPatienceMs = 200;

// The thread that is asked for its stack; -1 while it looks, 0 when it has.
std::atomic<long> wanted{0};
void* frames[kFrames];
int depth = 0;
sem_t asked;
sem_t taken;

int sample_signal() {
  return SIGRTMIN + 5;
}

void on_asked(int) {
  int before = errno;
  sem_post(&asked);
  errno = before;
}

void on_sample(int) {
  int before = errno;
  long own = syscall(SYS_gettid);
  // One that comes late, when another is asked already, keeps its hands off.
  if (wanted.compare_exchange_strong(own, -1)) {
    depth = backtrace(frames, kFrames);
    wanted.store(0);
    sem_post(&taken);
  }
  errno = before;
}

bool wait_for_sample(long ms) {
  timespec until{};
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += ms * 1000000;
  until.tv_sec += until.tv_nsec / 1000000000;
  until.tv_nsec %= 1000000000;
  while (sem_timedwait(&taken, &until) != 0) {
    if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

// A file of limited size.
class Sheet {
 public:
  Sheet(const std::string& path, uint64_t room)
      : fd_(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644)), room_(room) {}
  ~Sheet() {
    if (fd_ >= 0) {
      close(fd_);
    }
  }
  Sheet(const Sheet&) = delete;
  Sheet& operator=(const Sheet&) = delete;

  void line(const std::string& text) {
    if (fd_ < 0 || text.size() + 1 > room_) {
      return;
    }
    room_ -= text.size() + 1;
    std::string whole = text + "\n";
    ssize_t written = write(fd_, whole.data(), whole.size());
    if (written < 0) {
      room_ = 0;
    }
  }

 private:
  int fd_;
  uint64_t room_;
};

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string describe(void* address) {
  Dl_info info{};
  char text[64];
  if (dladdr(address, &info) == 0) {
    std::snprintf(text, sizeof text, "%p", address);
    return text;
  }
  const char* slash = std::strrchr(info.dli_fname, '/');
  std::string library = slash != nullptr ? slash + 1 : info.dli_fname;
  if (info.dli_sname == nullptr) {
    auto offset = static_cast<char*>(address) - static_cast<char*>(info.dli_fbase);
    std::snprintf(text, sizeof text, "+0x%lx", static_cast<unsigned long>(offset));
    return library + text;
  }
  int status = 0;
  char* plain = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  std::string name = status == 0 && plain != nullptr ? plain : info.dli_sname;
  std::free(plain);
  // Templates of libtorch have names of kilobytes.
  if (name.size() > 200) {
    name = name.substr(0, 200) + "..";
  }
  return name + " (" + library + ")";
}

void write_stacks(const std::string& path, uint64_t most) {
  // Room is kept for the last line, by which a reader knows that it is all there.
  Sheet sheet(path, most - 64);
  long self = syscall(SYS_gettid);
  std::vector<long> threads;
  if (DIR* folder = opendir("/proc/self/task")) {
    while (dirent* entry = readdir(folder)) {
      long thread = std::atol(entry->d_name);
      if (thread > 0 && thread != self) {
        threads.push_back(thread);
      }
    }
    closedir(folder);
  }
  for (long thread : threads) {
    std::string name = first_line("/proc/self/task/" + std::to_string(thread) + "/comm");
    sheet.line("thread " + std::to_string(thread) + " (" + name + ")");
    wanted.store(thread);
    if (syscall(SYS_tgkill, getpid(), thread, sample_signal()) != 0) {
      wanted.store(0);
      continue;
    }
    if (!wait_for_sample(kPatienceMs)) {
      long still = thread;
      if (wanted.compare_exchange_strong(still, 0)) {
        sheet.line("  does not look at its stack: it waits in the kernel");
        continue;
      }
      // It looks right now.
      wait_for_sample(kPatienceMs * 5);
    }
    // The first two are the handler's own.
    for (int at = 2; at < depth; ++at) {
      sheet.line("  " + describe(frames[at]));
    }
  }
}

} // namespace

namespace marquee {

uint64_t stand(uint64_t phase) {
  Page& own = *page.load(std::memory_order_relaxed);
  uint64_t before = own.phase.exchange(phase, std::memory_order_relaxed);
  own.since_ms.store(now_ms(), std::memory_order_relaxed);
  own.beats.fetch_add(1, std::memory_order_relaxed);
  return before;
}

} // namespace marquee

extern "C" {

// Maps the file at `path`, which is made, and answers SIGUSR2 with stacks in the file `stacks`, of `most`
// bytes, whose last line is `end`. Once in a process.
int marquee_standing_open(const char* path, const char* stacks, uint64_t magic, uint64_t most, const char* end) {
  return marquee::guarded([&] {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    TORCH_CHECK(fd >= 0, "the file ", path, " cannot be opened: ", std::strerror(errno));
    void* mapped = MAP_FAILED;
    if (ftruncate(fd, sizeof(Page)) == 0) {
      mapped = mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    int why = errno;
    close(fd);
    TORCH_CHECK(mapped != MAP_FAILED, "the file ", path, " cannot be mapped: ", std::strerror(why));
    auto* own = static_cast<Page*>(mapped);
    own->since_ms.store(now_ms());
    own->magic.store(magic);
    page.store(own);

    // The first call loads what later ones need: a handler may not.
    void* warm[1];
    backtrace(warm, 1);
    sem_init(&asked, 0, 0);
    sem_init(&taken, 0, 0);
    struct sigaction action {};
    action.sa_flags = SA_RESTART;
    action.sa_handler = on_sample;
    sigaction(sample_signal(), &action, nullptr);
    action.sa_handler = on_asked;
    sigaction(SIGUSR2, &action, nullptr);
    std::string to = stacks;
    std::string last = end;
    std::thread([to, last, most] {
      for (;;) {
        if (sem_wait(&asked) != 0) {
          continue;
        }
        write_stacks(to, most);
        if (FILE* file = std::fopen(to.c_str(), "a")) {
          std::fprintf(file, "%s\n", last.c_str());
          std::fclose(file);
        }
      }
    }).detach();
    own->answers.store(1);
  });
}

void marquee_standing_at(uint64_t phase) {
  marquee::stand(phase);
}

// Something was done, and there is more of the same.
void marquee_standing_beat() {
  page.load(std::memory_order_relaxed)->beats.fetch_add(1, std::memory_order_relaxed);
}

void marquee_standing_step(uint64_t step) {
  Page& own = *page.load(std::memory_order_relaxed);
  own.step.store(step, std::memory_order_relaxed);
  own.beats.fetch_add(1, std::memory_order_relaxed);
}

} // extern "C"
