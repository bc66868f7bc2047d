// Bytes on their way from the owner to the guest, in order per channel.
#pragma once

#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "native/error.h"

namespace kvitest {

// Used on one thread only, the device loop's.
class HostWrites {
 public:
  using Done = std::function<void(std::exception_ptr)>;
  // Hands bytes to the device behind a channel; returns how many it took (0 when full).
  using Sink = std::function<std::size_t(const std::string& channel, std::span<const std::byte>)>;

  explicit HostWrites(Sink sink) : sink_(std::move(sink)) {}

  // done is called once every byte was taken, or with what `fail` was given.
  void add(const std::string& channel, std::vector<std::byte> data, Done done);
  // The device of this channel may have room again.
  void pump(const std::string& channel);
  // The bytes that no device took yet, by channel.
  std::map<std::string, std::vector<std::byte>> pending() const;
  // Every write that is not done fails.
  void fail(const Error& reason);

 private:
  struct Write {
    std::vector<std::byte> data;
    std::size_t taken = 0;
    Done done;
  };

  Sink sink_;
  std::map<std::string, std::deque<Write>> writes_;
};

}  // namespace kvitest
