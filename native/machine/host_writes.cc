#include "native/machine/host_writes.h"

#include <utility>

namespace kvitest {

void HostWrites::add(const std::string& channel, std::vector<std::byte> data, Done done) {
  writes_[channel].push_back({std::move(data), 0, std::move(done)});
  pump(channel);
}

void HostWrites::pump(const std::string& channel) {
  const auto found = writes_.find(channel);
  if (found == writes_.end()) return;
  std::deque<Write>& queue = found->second;
  while (!queue.empty()) {
    Write& write = queue.front();
    while (write.taken < write.data.size()) {
      const std::size_t taken =
          sink_(channel, std::span<const std::byte>(write.data).subspan(write.taken));
      if (taken == 0) return;
      write.taken += taken;
    }
    const Done done = std::move(write.done);
    queue.pop_front();
    done(nullptr);
  }
  writes_.erase(found);
}

std::map<std::string, std::vector<std::byte>> HostWrites::pending() const {
  std::map<std::string, std::vector<std::byte>> pending;
  for (const auto& [channel, queue] : writes_) {
    std::vector<std::byte>& bytes = pending[channel];
    for (const Write& write : queue) {
      bytes.insert(bytes.end(), write.data.begin() + static_cast<std::ptrdiff_t>(write.taken),
                   write.data.end());
    }
  }
  return pending;
}

void HostWrites::fail(const Error& reason) {
  const auto writes = std::exchange(writes_, {});
  for (const auto& [channel, queue] : writes) {
    for (const Write& write : queue) write.done(std::make_exception_ptr(reason));
  }
}

}  // namespace kvitest
