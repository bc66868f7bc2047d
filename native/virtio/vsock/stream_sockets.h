// Stream sockets of the host, served by a thread of their own: what the streams of a vsock go on
// as, over AF_VSOCK or AF_UNIX.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "native/unique_fd.h"

namespace kvitest {

// Any thread may call it; no call blocks.
class StreamSockets {
 public:
  // Chosen by the owner, for a socket or a listener; none is used twice.
  using Id = std::uint32_t;

  // Called on the thread, with no lock held, in the order in which things happen to a socket.
  class Owner {
   public:
    virtual ~Owner() = default;
    virtual void accepted(Id listener, UniqueFd socket) = 0;
    // Of one that was added while it connected; else closed() comes.
    virtual void connected(Id) {}
    // At most a window of bytes, until taken().
    virtual void received(Id socket, std::span<const std::byte> data) = 0;
    // Bytes that were written and had to wait went on their way.
    virtual void sent(Id socket, std::size_t bytes) = 0;
    // The other side sends no more.
    virtual void ended(Id socket) = 0;
    // It is over, in both directions; nothing more comes.
    virtual void closed(Id socket) = 0;
  };

  // Throws Error when the process has no descriptor or thread left.
  StreamSockets(const std::string& name, Owner& owner, std::size_t window);
  // Closes all, at once.
  ~StreamSockets();
  // Ends the thread: the owner is called no more, and may still call.
  void stop();
  StreamSockets(const StreamSockets&) = delete;
  StreamSockets& operator=(const StreamSockets&) = delete;

  // Sockets that do not block. One that connects is connected when it can be written to.
  void listen(Id listener, UniqueFd fd);
  void add(Id socket, UniqueFd fd, bool connecting = false);
  bool has(Id socket) const;
  // Bytes that wait to be sent.
  std::size_t waiting(Id socket) const;
  // Sends what goes at once, and the rest later. Returns how many bytes need no sent() any more.
  std::size_t write(Id socket, std::span<const iovec> pieces);
  std::size_t write(Id socket, std::span<const std::byte> data);
  // The owner is done with so many bytes that it received.
  void taken(Id socket, std::size_t bytes);
  // No more is written: the other side learns it behind what waits.
  void shut(Id socket);
  // No more is received nor told; closed once what waits is sent. A listener: at once.
  void remove(Id socket);
  // Does this on the thread, soon.
  void post(std::function<void()> task);

 private:
  struct Socket {
    UniqueFd fd;
    bool listens = false;
    bool connects = false;
    bool removed = false;
    bool shut_asked = false;
    bool shut_done = false;
    bool broken = false;   // nothing can be sent any more
    bool at_end = false;   // nothing more is received
    bool is_over = false;  // and was told so
    std::size_t held = 0;  // received and not taken
    std::vector<std::byte> out;
    std::size_t out_at = 0;
    std::uint32_t watched = 0;  // as epoll knows it

    std::size_t waiting() const { return out.size() - out_at; }
  };
  using Sockets = std::map<Id, Socket>;

  void run(const std::string& name);
  void wake() const;
  void put(Id id, Socket socket);
  void run_tasks();
  void serve(Id id);
  void accept_all(Id id);
  // With mutex_ held.
  static std::size_t send_at_once(const Socket& socket, std::span<const iovec> pieces);
  // With mutex_ held, on the thread.
  bool send_some(Socket& socket, std::size_t& sent);
  std::uint32_t wanted(const Socket& socket) const;
  void watch(Id id, Socket& socket);

  Owner& owner_;
  const std::size_t window_;
  UniqueFd wake_;
  UniqueFd poll_;
  mutable std::mutex mutex_;
  Sockets sockets_;
  std::vector<Id> changed_;  // to be looked at again
  std::vector<std::function<void()>> tasks_;
  bool ending_ = false;
  std::vector<std::byte> buffer_;  // the thread's
  std::thread thread_;
};

}  // namespace kvitest
