#include "native/virtio/vsock/stream_sockets.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <utility>

#include "native/counts.h"
#include "native/error.h"
#include "native/quiet_thread.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kWake = ~std::uint64_t{0};
constexpr std::size_t kReadAtOnce = 256 * 1024;

}  // namespace

StreamSockets::StreamSockets(const std::string& name, Owner& owner, std::size_t window)
    : owner_(owner),
      window_(window),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      poll_(::epoll_create1(EPOLL_CLOEXEC)),
      buffer_(kReadAtOnce) {
  epoll_event event{.events = EPOLLIN, .data = {.u64 = kWake}};
  if (!wake_ || !poll_ || ::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
    throw Error("serve sockets", errno, name);
  }
  thread_ = quiet_thread("sockets of " + name, [this, thread = "kvitest-" + name] { run(thread); });
  ++live_threads;
}

StreamSockets::~StreamSockets() {
  stop();
}

void StreamSockets::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake();
  thread_.join();
  --live_threads;
}

void StreamSockets::wake() const {
  static_cast<void>(::eventfd_write(wake_.get(), 1));
}

void StreamSockets::put(Id id, Socket socket) {
  const std::lock_guard lock(mutex_);
  sockets_[id] = std::move(socket);
  changed_.push_back(id);
  wake();
}

void StreamSockets::listen(Id listener, UniqueFd fd) {
  Socket socket;
  socket.fd = std::move(fd);
  socket.listens = true;
  put(listener, std::move(socket));
}

void StreamSockets::add(Id id, UniqueFd fd, bool connecting) {
  Socket socket;
  socket.fd = std::move(fd);
  socket.connects = connecting;
  put(id, std::move(socket));
}

bool StreamSockets::has(Id id) const {
  const std::lock_guard lock(mutex_);
  const auto found = sockets_.find(id);
  return found != sockets_.end() && !found->second.removed && !found->second.is_over;
}

std::size_t StreamSockets::waiting(Id id) const {
  const std::lock_guard lock(mutex_);
  const auto found = sockets_.find(id);
  return found == sockets_.end() ? 0 : found->second.waiting();
}

// An error is the thread's to find.
std::size_t StreamSockets::send_at_once(const Socket& socket, std::span<const iovec> pieces) {
  if (socket.connects || socket.removed || socket.waiting() != 0) return 0;
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(pieces.data());
  message.msg_iovlen = std::min<std::size_t>(pieces.size(), IOV_MAX);
  const ssize_t sent = ::sendmsg(socket.fd.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  return static_cast<std::size_t>(std::max<ssize_t>(sent, 0));
}

std::size_t StreamSockets::write(Id id, std::span<const std::byte> data) {
  const iovec piece{const_cast<std::byte*>(data.data()), data.size()};
  return write(id, std::span(&piece, 1));
}

std::size_t StreamSockets::write(Id id, std::span<const iovec> pieces) {
  const std::lock_guard lock(mutex_);
  const auto found = sockets_.find(id);
  if (found == sockets_.end() || found->second.broken || found->second.shut_asked) return 0;
  Socket& socket = found->second;
  const std::size_t sent = send_at_once(socket, pieces);
  // What was sent makes room before the buffer grows.
  if (socket.out_at != 0) {
    socket.out.erase(socket.out.begin(),
                     socket.out.begin() + static_cast<std::ptrdiff_t>(socket.out_at));
    socket.out_at = 0;
  }
  std::size_t skipped = 0;
  for (const iovec& piece : pieces) {
    const std::size_t begin = std::min(sent - skipped, piece.iov_len);
    skipped += begin;
    const auto* const bytes = static_cast<const std::byte*>(piece.iov_base);
    socket.out.insert(socket.out.end(), bytes + begin, bytes + piece.iov_len);
  }
  if (socket.waiting() == 0) return sent;
  changed_.push_back(id);
  wake();
  return sent;
}

void StreamSockets::taken(Id id, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = sockets_.find(id);
  if (found == sockets_.end()) return;
  const bool was_full = found->second.held >= window_;
  found->second.held -= std::min(bytes, found->second.held);
  if (!was_full) return;
  changed_.push_back(id);
  wake();
}

void StreamSockets::shut(Id id) {
  const std::lock_guard lock(mutex_);
  const auto found = sockets_.find(id);
  if (found == sockets_.end()) return;
  found->second.shut_asked = true;
  changed_.push_back(id);
  wake();
}

void StreamSockets::remove(Id id) {
  const std::lock_guard lock(mutex_);
  const auto found = sockets_.find(id);
  if (found == sockets_.end()) return;
  if (found->second.listens) {
    // Its port is free when this returns.
    sockets_.erase(found);
    return;
  }
  found->second.removed = true;
  changed_.push_back(id);
  wake();
}

void StreamSockets::post(std::function<void()> task) {
  const std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
  wake();
}

// Without anything to do for it a socket is still asked for its end, once for each change.
std::uint32_t StreamSockets::wanted(const Socket& socket) const {
  if (socket.listens) return EPOLLIN;
  if (socket.connects) return EPOLLOUT;
  const bool reads = !socket.at_end && !socket.removed && socket.held < window_;
  const bool writes = socket.waiting() != 0 && !socket.broken;
  const std::uint32_t events = (reads ? EPOLLIN : 0u) | (writes ? EPOLLOUT : 0u);
  return events != 0 ? events : EPOLLOUT | EPOLLET;
}

void StreamSockets::watch(Id id, Socket& socket) {
  const std::uint32_t events = wanted(socket);
  if (events == socket.watched) return;
  epoll_event event{.events = events, .data = {.u64 = id}};
  const int operation = socket.watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  // Without memory in the kernel for it, it is as good as broken.
  if (::epoll_ctl(poll_.get(), operation, socket.fd.get(), &event) == 0) socket.watched = events;
}

bool StreamSockets::send_some(Socket& socket, std::size_t& sent) {
  while (socket.waiting() != 0 && !socket.broken) {
    const ssize_t done = ::send(socket.fd.get(), socket.out.data() + socket.out_at,
                                socket.waiting(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
    if (done < 0) {
      // What is lost is as good as sent, for whoever waits for room.
      socket.broken = true;
      sent += socket.waiting();
      socket.out_at = socket.out.size();
      break;
    }
    socket.out_at += static_cast<std::size_t>(done);
    sent += static_cast<std::size_t>(done);
  }
  socket.out.clear();
  socket.out_at = 0;
  if (socket.shut_asked && !socket.shut_done) {
    ::shutdown(socket.fd.get(), SHUT_WR);
    socket.shut_done = true;
  }
  return true;
}

void StreamSockets::accept_all(Id id) {
  while (true) {
    UniqueFd socket;
    {
      const std::lock_guard lock(mutex_);
      const auto found = sockets_.find(id);
      if (found == sockets_.end()) return;
      Socket& listener = found->second;
      socket =
          UniqueFd(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket) {
        watch(id, listener);
        return;
      }
    }
    owner_.accepted(id, std::move(socket));
  }
}

void StreamSockets::serve(Id id) {
  std::size_t sent = 0;
  std::size_t received = 0;
  bool connected = false;
  bool ended = false;
  bool over = false;
  {
    const std::lock_guard lock(mutex_);
    const auto found = sockets_.find(id);
    if (found == sockets_.end()) return;
    Socket& socket = found->second;
    if (socket.connects) {
      const bool is_new = socket.watched == 0;
      watch(id, socket);
      if (is_new && !socket.removed) return;
      int error = 0;
      socklen_t length = sizeof error;
      ::getsockopt(socket.fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
      if (error != 0 || socket.removed) {
        over = !socket.removed;
        sockets_.erase(found);
      } else if (::send(socket.fd.get(), nullptr, 0, MSG_NOSIGNAL | MSG_DONTWAIT) == 0) {
        socket.connects = false;
        connected = true;
        watch(id, socket);
      }
    } else {
      const bool all_sent = send_some(socket, sent);
      if (socket.removed) {
        if (all_sent || socket.broken) {
          sockets_.erase(found);
        } else {
          watch(id, socket);
        }
        return;
      }
      if (!socket.at_end && socket.held < window_) {
        const std::size_t most = std::min(buffer_.size(), window_ - socket.held);
        const ssize_t got = ::recv(socket.fd.get(), buffer_.data(), most, MSG_DONTWAIT);
        if (got > 0) {
          received = static_cast<std::size_t>(got);
          socket.held += received;
        } else if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
          socket.at_end = ended = true;
          socket.broken = socket.broken || got != 0;
        }
      }
      // A send of nothing fails once the other side takes nothing any more.
      if (socket.at_end && !socket.shut_done && !socket.broken) {
        socket.broken = ::send(socket.fd.get(), nullptr, 0, MSG_NOSIGNAL | MSG_DONTWAIT) < 0;
      }
      if (socket.at_end && (socket.shut_done || socket.broken) && !socket.is_over) {
        socket.is_over = over = true;
      }
      watch(id, socket);
    }
  }
  if (connected) owner_.connected(id);
  if (sent != 0) owner_.sent(id, sent);
  if (received != 0) owner_.received(id, std::span(buffer_).first(received));
  if (ended) owner_.ended(id);
  if (over) owner_.closed(id);
}

void StreamSockets::run_tasks() {
  std::vector<std::function<void()>> tasks;
  std::vector<Id> changed;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
    changed.swap(changed_);
  }
  for (const auto& task : tasks) task();
  for (const Id id : changed) {
    bool listens = false;
    {
      const std::lock_guard lock(mutex_);
      const auto found = sockets_.find(id);
      if (found == sockets_.end()) continue;
      listens = found->second.listens;
    }
    listens ? accept_all(id) : serve(id);
  }
}

void StreamSockets::run(const std::string& name) {
  ::pthread_setname_np(::pthread_self(), name.substr(0, 15).c_str());
  std::array<epoll_event, 16> events{};
  while (true) {
    const int ready = ::epoll_wait(poll_.get(), events.data(), static_cast<int>(events.size()), -1);
    if (ready < 0 && errno != EINTR) return;
    for (int i = 0; i < ready; ++i) {
      const std::uint64_t what = events[static_cast<std::size_t>(i)].data.u64;
      if (what != kWake) {
        const std::lock_guard lock(mutex_);
        changed_.push_back(static_cast<Id>(what));
        continue;
      }
      eventfd_t count = 0;
      static_cast<void>(::eventfd_read(wake_.get(), &count));
    }
    {
      const std::lock_guard lock(mutex_);
      if (ending_) return;
    }
    run_tasks();
  }
}

}  // namespace kvitest
