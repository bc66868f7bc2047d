#include "native/net/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "native/counts.h"
#include "native/error.h"
#include "native/net/offload.h"
#include "native/quiet_thread.h"
#include "native/unique_fd.h"

namespace kvitest {
namespace {

constexpr const char* kOpen = "open tap";
constexpr const char* kDevice = "/dev/net/tun";
// The header has the layout of virtio 1.3, 5.1.6, and TUNSETVNETLE its byte order.
// (linux/virtio_net.h is no C++.)
struct Header {
  std::uint8_t flags, gso_type;
  std::uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};
static_assert(sizeof(Header) == 12 && std::endian::native == std::endian::little);
constexpr std::uint8_t kNeedsChecksum = 1;
constexpr std::uint8_t kGsoNone = 0;
constexpr std::uint8_t kGsoTcp4 = 1;
constexpr std::uint8_t kGsoTcp6 = 4;
constexpr std::uint8_t kGsoEcn = 0x80;

Header header_of(const Frame& frame) {
  Header header{};
  header.num_buffers = 1;
  if (!frame.checksum) return header;
  header.flags = kNeedsChecksum;
  header.csum_start = frame.checksum->start;
  header.csum_offset = frame.checksum->offset;
  if (!frame.segmentation) return header;
  const bool is_tcp4 = frame.segmentation->kind == SegmentKind::kTcp4;
  header.gso_type = is_tcp4 ? kGsoTcp4 : kGsoTcp6;
  header.gso_size = frame.segmentation->size;
  const std::size_t tcp = frame.checksum->start;
  const auto words = std::to_integer<std::uint16_t>(frame.bytes[tcp + 12] >> 4);
  header.hdr_len = static_cast<std::uint16_t>(tcp + words * 4u);
  return header;
}

// What the header says of a frame of the host; false for what no virtio device could pass on.
bool apply(const Header& header, Frame& frame) {
  if ((header.flags & kNeedsChecksum) != 0) {
    frame.checksum = PartialChecksum{header.csum_start, header.csum_offset};
  }
  const std::uint8_t kind = header.gso_type & ~kGsoEcn;
  if (kind == kGsoTcp4 || kind == kGsoTcp6) {
    frame.segmentation =
        Segmentation{kind == kGsoTcp4 ? SegmentKind::kTcp4 : SegmentKind::kTcp6, header.gso_size};
  } else if (kind != kGsoNone) {
    return false;
  }
  return frame.bytes.size() >= kEthernetHeader && offloads_fit(frame);
}

class TapLink : public Link {
 public:
  TapLink(const std::string& interface, FramesWaiting frames_waiting)
      : fd_(open_tap_file(interface)),
        stop_(::eventfd(0, EFD_CLOEXEC)),
        poll_(::epoll_create1(EPOLL_CLOEXEC)),
        frames_waiting_(std::move(frames_waiting)) {
    if (!stop_ || !poll_) throw Error(kOpen, errno, "interface " + interface);
    // The network device cuts segments and completes checksums for a driver that cannot.
    set_tap_offloads(fd_.get(), interface, {});
    // Edges: a device without buffers leaves frames where they are, and is not asked again.
    epoll_event frames{.events = EPOLLIN | EPOLLET, .data = {.fd = fd_.get()}};
    epoll_event stop{.events = EPOLLIN, .data = {.fd = stop_.get()}};
    if (::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, fd_.get(), &frames) != 0 ||
        ::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, stop_.get(), &stop) != 0) {
      throw Error(kOpen, errno, "interface " + interface);
    }
    thread_ =
        quiet_thread("tap " + interface, [this, name = "kvitest-" + interface] { watch(name); });
    ++live_threads;
  }
  ~TapLink() override {
    static_cast<void>(::eventfd_write(stop_.get(), 1));
    thread_.join();
    --live_threads;
  }

  void send(Frame frame) override {
    Header header = header_of(frame);
    std::array<iovec, 2> parts{
        {{&header, sizeof header}, {frame.bytes.data(), frame.bytes.size()}}};
    const ssize_t written = ::writev(fd_.get(), parts.data(), parts.size());
    // An interface that is down, or no buffers: lost, as on a wire.
    if (written < 0) return;
    const std::lock_guard lock(mutex_);
    ++counts_.sent;
  }

  std::optional<Frame> receive() override {
    const std::lock_guard lock(mutex_);
    while (true) {
      Header header{};
      std::array<iovec, 2> parts{{{&header, sizeof header}, {buffer_.data(), buffer_.size()}}};
      const ssize_t got = ::readv(fd_.get(), parts.data(), parts.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < static_cast<ssize_t>(sizeof header)) return std::nullopt;
      const std::span<const std::byte> bytes(buffer_.data(),
                                             static_cast<std::size_t>(got) - sizeof header);
      Frame frame{{bytes.begin(), bytes.end()}, std::nullopt, std::nullopt};
      if (!apply(header, frame)) {
        ++counts_.dropped;
        continue;
      }
      ++counts_.received;
      return frame;
    }
  }

  LinkCounts counts() const override {
    const std::lock_guard lock(mutex_);
    return counts_;
  }

 private:
  void watch(const std::string& name) {
    ::pthread_setname_np(::pthread_self(), name.substr(0, 15).c_str());
    while (true) {
      epoll_event event{};
      const int ready = ::epoll_wait(poll_.get(), &event, 1, -1);
      if (ready < 0 && errno != EINTR) return;
      if (ready != 1) continue;
      if (event.data.fd == stop_.get()) return;
      frames_waiting_();
    }
  }

  const UniqueFd fd_;
  const UniqueFd stop_;
  const UniqueFd poll_;
  const FramesWaiting frames_waiting_;
  mutable std::mutex mutex_;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(kMaxFrame);
  LinkCounts counts_;
  std::thread thread_;
};

}  // namespace

void check_interface_name(const std::string& operation, const std::string& interface) {
  const bool has_odd_byte = std::ranges::any_of(
      interface, [](char c) { return c == '/' || c == ':' || c == '%' || c <= ' '; });
  if (!interface.empty() && interface.size() < IFNAMSIZ && !has_odd_byte && interface != "." &&
      interface != "..") {
    return;
  }
  throw Error(operation, EINVAL, "no interface has the name \"" + interface + "\"",
              "give 1 to 15 characters without / : % and spaces");
}

UniqueFd open_tap_file(const std::string& interface) {
  check_interface_name(kOpen, interface);
  UniqueFd fd(::open(kDevice, O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd) {
    const bool absent = errno == ENOENT || errno == ENXIO || errno == ENODEV;
    throw Error(kOpen, errno, kDevice,
                absent ? "load the tun module: modprobe tun" : "its group or root may open it");
  }
  ifreq request{};
  std::ranges::copy(interface, request.ifr_name);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) {
    const char* hint = "";
    if (errno == EPERM) {
      hint =
          "it needs CAP_NET_ADMIN, or an interface of this user: ip tuntap add NAME mode tap "
          "user $USER";
    }
    if (errno == EBUSY) hint = "another process or guest has it; give each guest its own";
    if (errno == EINVAL) hint = "an interface of this name is no tap of one queue";
    throw Error(kOpen, errno, "interface " + interface, hint);
  }
  int header = sizeof(Header);
  int little_endian = 1;
  if (::ioctl(fd.get(), TUNSETVNETHDRSZ, &header) != 0 ||
      ::ioctl(fd.get(), TUNSETVNETLE, &little_endian) != 0) {
    throw Error(kOpen, errno, "interface " + interface + ": its header");
  }
  return fd;
}

void set_tap_offloads(int fd, const std::string& interface, const TapOffloads& offloads) {
  const unsigned long wanted = (offloads.checksum ? TUN_F_CSUM : 0u) |
                               (offloads.tcp4 ? TUN_F_TSO4 : 0u) |
                               (offloads.tcp6 ? TUN_F_TSO6 : 0u);
  if (::ioctl(fd, TUNSETOFFLOAD, wanted) != 0) {
    throw Error(kOpen, errno, "interface " + interface + ": offloads");
  }
}

void discard_waiting(int fd) {
  std::array<std::byte, 2048> buffer{};  // the rest of a longer one is lost with it
  // A host that never ceases to send does not hold us.
  constexpr int kMost = 65536;
  for (int i = 0; i < kMost; ++i) {
    if (::read(fd, buffer.data(), buffer.size()) < 0 && errno != EINTR) return;
  }
}

std::unique_ptr<Link> open_tap(const std::string& interface, FramesWaiting frames_waiting) {
  return std::make_unique<TapLink>(interface, std::move(frames_waiting));
}

}  // namespace kvitest
