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

Disk& Machine::disk(const std::string& name, const char* operation) const {
  require_running(operation);
  if (Disk* const found = board_->disk(name)) return *found;
  std::string known;
  for (const std::string& one : board_->disks()) known += " " + one;
  throw Error(operation, ENOENT, "machine " + spec_.name + " has no disk \"" + name + "\"",
              known.empty() ? "give it a virtio-blk or virtio-scsi device" : "its disks:" + known);
}

void Machine::read_disk(std::string name, std::uint64_t offset, std::uint64_t length,
                        std::function<void(Bytes, std::exception_ptr)> done) {
  loop_.post([this, name = std::move(name), offset, length, done = std::move(done)] {
    answer(done, [&] {
      check_length(kRead, length);
      Bytes bytes(length);
      disk(name, kRead).read(offset, bytes);
      return bytes;
    });
  });
}

void Machine::write_disk(std::string name, std::uint64_t offset, Bytes data, Done done) {
  loop_.post(
      [this, name = std::move(name), offset, data = std::move(data), done = std::move(done)] {
        answer(done, [&] {
          check_length(kWrite, data.size());
          disk(name, kWrite).write(offset, data);
        });
      });
}

void Machine::resize_disk(std::string name, std::uint64_t bytes, Done done) {
  loop_.post([this, name = std::move(name), bytes, done = std::move(done)] {
    answer(done, [&] {
      disk(name, "resize disk");
      board_->resize_disk(name, bytes);
    });
  });
}

void Machine::disk_report(std::string name,
                          std::function<void(DiskReport, std::exception_ptr)> done) {
  loop_.post([this, name = std::move(name), done = std::move(done)] {
    answer(done, [&] {
      const std::uint64_t bytes = disk(name, "disk").size();
      const RequestQueues& requests = *board_->requests_of_disk(name);
      return DiskReport{bytes, requests.server(), requests.served()};
    });
  });
}

Scsi& Machine::scsi(const std::string& name, const char* operation) const {
  require_running(operation);
  if (Scsi* const found = board_->scsi(name)) return *found;
  throw Error(operation, ENOENT, "machine " + spec_.name + " has no virtio-scsi \"" + name + "\"",
              "give it a virtio-scsi device of its own luns");
}

void Machine::attach_lun(std::string device, ScsiLunSpec lun, Done done) {
  loop_.post([this, device = std::move(device), lun = std::move(lun), done = std::move(done)] {
    answer(done, [&] {
      Scsi& found = scsi(device, "attach");
      if (board_->disk(lun.name) != nullptr) {
        throw Error("attach", EEXIST, "machine " + spec_.name + " has a disk " + lun.name,
                    "give every disk its own name");
      }
      found.attach_lun(lun, open_disk(lun.backing, lun.read_only));
    });
  });
}

void Machine::detach_lun(std::string device, std::string lun, Done done) {
  loop_.post([this, device = std::move(device), lun = std::move(lun), done = std::move(done)] {
    answer(done, [&] { scsi(device, "detach").detach_lun(lun); });
  });
}

}  // namespace kvitest
