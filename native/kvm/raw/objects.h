// The fds and mappings of one session, by the caller's handles.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "native/kvm/raw/call.h"
#include "native/kvm/raw/memory.h"
#include "native/unique_fd.h"

namespace kvitest::raw {

// An fd that another thread may use while it is closed. Closing lets go of the kernel's object at
// once; the number itself is free again only when no call can use it any more, so that no call ever
// reaches a file that got the number next.
class SharedFd {
 public:
  explicit SharedFd(int fd) : fd_(fd) {}
  int get() const { return fd_.get(); }
  // 0, or the errno.
  int close();

 private:
  UniqueFd fd_;
};

class Objects {
 public:
  // Each throws Error: EEXIST for a handle in use, ENFILE when there are too many.
  void add(Handle handle, std::shared_ptr<SharedFd> fd);
  void add(Handle handle, std::shared_ptr<Mapping> mapping);
  // Each throws Error (EBADF) when nothing has the handle.
  std::shared_ptr<SharedFd> fd(Handle handle) const;
  std::shared_ptr<Mapping> mapping(Handle handle) const;
  std::shared_ptr<SharedFd> take_fd(Handle handle);
  std::shared_ptr<Mapping> take_mapping(Handle handle);
  // Lets go of all: from here on nothing is added any more.
  void clear();

 private:
  mutable std::mutex mutex_;
  std::map<Handle, std::shared_ptr<SharedFd>> fds_;
  std::map<Handle, std::shared_ptr<Mapping>> mappings_;
  bool closed_ = false;
};

}  // namespace kvitest::raw
