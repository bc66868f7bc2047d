// A device of a machine spec, whatever its type.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "native/virtio/balloon/balloon.h"
#include "native/virtio/blk/blk.h"
#include "native/virtio/console/console.h"
#include "native/virtio/net/net.h"
#include "native/virtio/p9/p9.h"
#include "native/virtio/rng/rng.h"
#include "native/virtio/scsi/scsi.h"
#include "native/virtio/vsock/vsock.h"

namespace kvitest {

// How a device meets its driver, whatever it is.
struct TransportSpec {
  bool mmio = false;                         // else PCI
  std::vector<std::string> with_features{};  // offered only when asked for: optional_features()
  std::vector<std::string> personality{};    // deliberate oddities: personality_of()
  template <typename Archive>
  void fields(Archive& archive) {
    archive(mmio, with_features, personality);
  }
};

using AnyDeviceSpec =
    std::variant<ConsoleSpec, RngSpec, BlkSpec, NetSpec, VsockSpec, BalloonSpec, P9Spec, ScsiSpec>;

struct DeviceSpec : AnyDeviceSpec {
  using AnyDeviceSpec::variant;
  TransportSpec transport;
};

// "virtio-blk"
const char* type_name(const DeviceSpec& device);
// What its owner calls it: the name, a console's first port, a directory's tag, else the type.
std::string device_name(const DeviceSpec& device);
// For a person, and to tell devices that are not the same: virtio-console(results, log)
std::string describe(const DeviceSpec& device);
const std::vector<std::string>& without_features(const DeviceSpec& device);

// The spec without variants, as the archive of a checkpoint wants it.
struct DeviceFields {
  struct Port {
    std::string name;
    bool console = false;
    template <typename Archive>
    void fields(Archive& archive) {
      archive(name, console);
    }
  };
  // The backing is only a record: a checkpoint has the disk's content.
  struct Blk {
    std::string name, serial, backing;
    std::uint64_t bytes = 0;
    std::uint8_t backing_kind = 0;
    bool read_only = false;
    std::uint16_t queues = 0, queue_size = 0;
    std::uint32_t block_size = 0;
    template <typename Archive>
    void fields(Archive& archive) {
      archive(name, serial, backing, bytes, backing_kind, read_only, queues, queue_size,
              block_size);
    }
  };
  struct Net {
    std::string name;
    MacAddress mac{};
    std::uint16_t mtu = 0, queue_pairs = 1;
    std::string network, tap;
    bool vhost = false;
    template <typename Archive>
    void fields(Archive& archive) {
      archive(name, mac, mtu, queue_pairs, network, tap, vhost);
    }
  };
  std::string type;
  TransportSpec transport;
  std::vector<std::string> without_features;
  std::vector<Port> ports;
  std::vector<Blk> blk;  // one, for a virtio-blk
  std::vector<Net> net;  // one, for a virtio-net
  struct Socket {
    std::string name;
    std::uint32_t cid = 0;
    std::uint8_t backend = 0;
    std::string path;
    template <typename Archive>
    void fields(Archive& archive) {
      archive(name, cid, backend, path);
    }
  };
  std::vector<Socket> vsock;  // one, for a virtio-vsock
  std::string name;           // of a virtio-balloon or virtio-scsi
  struct Share {
    std::string tag, path;
    bool read_only = false;
    template <typename Archive>
    void fields(Archive& archive) {
      archive(tag, path, read_only);
    }
  };
  std::vector<Share> p9;  // one, for a virtio-9p
  struct Lun {
    std::string name, serial;
    std::uint64_t bytes = 0;  // of memory; of a file nothing is recorded
    std::uint8_t target = 0, lun = 0;
    bool read_only = false;
    std::uint32_t block_size = 0;
    template <typename Archive>
    void fields(Archive& archive) {
      archive(name, serial, bytes, target, lun, read_only, block_size);
    }
  };
  std::vector<Lun> luns;  // of a virtio-scsi
  std::string vhost;
  std::uint16_t queues = 0, queue_size = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(type, transport, without_features, ports, blk, net, vsock, name, p9, luns, vhost,
            queues, queue_size);
  }
};

DeviceFields to_fields(const DeviceSpec& device);
// Throws Error (EBADMSG) for fields that to_fields() does not make.
DeviceSpec from_fields(const DeviceFields& fields);

}  // namespace kvitest
