// The owner's way to the disks of a Machine. Everything here runs on the device loop.
#include <cerrno>
#include <utility>

#include "native/error.h"
#include "native/machine/machine.h"

namespace kvitest {
namespace {

constexpr const char* kRead = "read disk";
constexpr const char* kWrite = "write disk";

void check_length(const char* operation, std::uint64_t length) {
  if (length <= kMaxDiskAccess) return;
  throw Error(operation, EINVAL, std::to_string(length) + " bytes in one call",
              "ask for 16 MiB at most");
}

}  // namespace

Blk& Machine::disk(const std::string& name, const char* operation) const {
  require_running(operation);
  if (Blk* found = board_->disk(name)) return *found;
  std::string known;
  for (const std::string& one : board_->disks()) known += " " + one;
  throw Error(operation, ENOENT, "machine " + spec_.name + " has no disk \"" + name + "\"",
              known.empty() ? "give it a virtio-blk device" : "its disks:" + known);
}

void Machine::read_disk(std::string name, std::uint64_t offset, std::uint64_t length,
                        std::function<void(Bytes, std::exception_ptr)> done) {
  loop_.post([this, name = std::move(name), offset, length, done = std::move(done)] {
    Bytes bytes;
    std::exception_ptr error;
    try {
      check_length(kRead, length);
      bytes.resize(length);
      disk(name, kRead).disk().read(offset, bytes);
    } catch (...) {
      error = std::current_exception();
    }
    done(std::move(bytes), error);
  });
}

void Machine::write_disk(std::string name, std::uint64_t offset, Bytes data, Done done) {
  loop_.post(
      [this, name = std::move(name), offset, data = std::move(data), done = std::move(done)] {
        answer(done, [&] {
          check_length(kWrite, data.size());
          disk(name, kWrite).disk().write(offset, data);
        });
      });
}

void Machine::resize_disk(std::string name, std::uint64_t bytes, Done done) {
  loop_.post([this, name = std::move(name), bytes, done = std::move(done)] {
    answer(done, [&] { disk(name, "resize disk").resize(bytes); });
  });
}

void Machine::disk_size(std::string name,
                        std::function<void(std::uint64_t, std::exception_ptr)> done) {
  loop_.post([this, name = std::move(name), done = std::move(done)] {
    std::uint64_t bytes = 0;
    std::exception_ptr error;
    try {
      bytes = disk(name, "disk").disk().size();
    } catch (...) {
      error = std::current_exception();
    }
    done(bytes, error);
  });
}

}  // namespace kvitest
