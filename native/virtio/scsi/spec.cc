// What a virtio-scsi device can be.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <set>
#include <string>
#include <utility>
#include <variant>

#include "native/error.h"
#include "native/virtio/scsi/scsi.h"

namespace kvitest {

void validate(const ScsiLunSpec& spec) {
  const auto refuse = [&](const std::string& detail, const std::string& hint) {
    throw Error("machine spec", EINVAL, "logical unit " + spec.name + ": " + detail, hint);
  };
  if (spec.name.empty()) refuse("no name", "name it: lun0");
  if (spec.target > kScsiMaxTarget) {
    refuse("target " + std::to_string(spec.target), "there are 0 to 7");
  }
  if (spec.serial.size() > kScsiSerialBytes ||
      std::ranges::any_of(spec.serial, [](char one) { return one < 0x20 || one > 0x7e; })) {
    refuse("its serial", "give at most 36 printable ASCII characters");
  }
  if (!std::has_single_bit(spec.block_size) || spec.block_size < kSectorSize ||
      spec.block_size > kClusterSize) {
    refuse("blocks of " + std::to_string(spec.block_size), "ask for 512, 1024, 2048 or 4096");
  }
  const auto* memory = std::get_if<MemoryBacking>(&spec.backing);
  if (memory != nullptr) check_disk_size("machine spec: disk " + spec.name, memory->bytes);
}

void validate(const ScsiSpec& spec) {
  const auto refuse = [&](const std::string& detail, const std::string& hint) {
    throw Error("machine spec", EINVAL, "virtio-scsi " + spec.name + ": " + detail, hint);
  };
  if (spec.name.empty()) refuse("no name", "name it: scsi0");
  if (spec.queues < 1 || spec.queues > kScsiMaxQueues) {
    refuse(std::to_string(spec.queues) + " queues", "ask for 1 to 8");
  }
  if (!std::has_single_bit(spec.queue_size) || spec.queue_size > kScsiMaxQueueSize) {
    refuse("queues of " + std::to_string(spec.queue_size), "ask for a power of two up to 1024");
  }
  if (!spec.vhost.empty()) {
    if (!spec.luns.empty()) refuse("luns beside a vhost target", "leave one of both out");
    const auto is_odd = [](char one) { return one <= 0x20 || one > 0x7e || one == '/'; };
    if (spec.vhost.size() > kScsiWwpnBytes || std::ranges::any_of(spec.vhost, is_odd)) {
      refuse("its target", "give a WWPN: naa.5001405...");
    }
  }
  std::set<std::pair<std::uint8_t, std::uint8_t>> numbers;
  for (const ScsiLunSpec& lun : spec.luns) {
    validate(lun);
    if (!numbers.insert({lun.target, lun.lun}).second) {
      refuse("two logical units " + std::to_string(lun.lun) + " of target " +
                 std::to_string(lun.target),
             "give them different numbers");
    }
  }
}

}  // namespace kvitest
