#include "native/kvm/raw/objects.h"

#include <fcntl.h>

#include <cerrno>
#include <string>
#include <utility>

#include "native/error.h"

namespace kvitest::raw {
namespace {

template <typename T>
void put(std::map<Handle, T>& objects, Handle handle, T object, const char* what, bool closed) {
  const std::string name = std::string(what) + " " + std::to_string(handle);
  if (closed) throw Error("raw KVM access", ECANCELED, "the session is closed");
  if (objects.size() >= kMaxHandles) {
    throw Error("raw KVM access", ENFILE, "a session holds at most " + std::to_string(kMaxHandles));
  }
  if (!objects.emplace(handle, std::move(object)).second) {
    throw Error("raw KVM access", EEXIST, name + " is in use");
  }
}

template <typename Objects>
auto find(Objects& objects, Handle handle, const char* what) {
  const auto found = objects.find(handle);
  if (found == objects.end()) {
    throw Error("raw KVM access", EBADF,
                std::string("there is no ") + what + " " + std::to_string(handle),
                "it was never made, or is closed");
  }
  return found;
}

template <typename T>
T take(std::map<Handle, T>& objects, Handle handle, const char* what) {
  const auto found = find(objects, handle, what);
  T object = std::move(found->second);
  objects.erase(found);
  return object;
}

}  // namespace

int SharedFd::close() {
  const UniqueFd nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!nothing) return errno;
  return ::dup3(nothing.get(), fd_.get(), O_CLOEXEC) < 0 ? errno : 0;
}

void Objects::add(Handle handle, std::shared_ptr<SharedFd> fd) {
  const std::lock_guard lock(mutex_);
  put(fds_, handle, std::move(fd), "fd", closed_);
}

void Objects::add(Handle handle, std::shared_ptr<Mapping> mapping) {
  const std::lock_guard lock(mutex_);
  put(mappings_, handle, std::move(mapping), "mapping", closed_);
}

std::shared_ptr<SharedFd> Objects::fd(Handle handle) const {
  const std::lock_guard lock(mutex_);
  return find(fds_, handle, "fd")->second;
}

std::shared_ptr<Mapping> Objects::mapping(Handle handle) const {
  const std::lock_guard lock(mutex_);
  return find(mappings_, handle, "mapping")->second;
}

std::shared_ptr<SharedFd> Objects::take_fd(Handle handle) {
  const std::lock_guard lock(mutex_);
  return take(fds_, handle, "fd");
}

std::shared_ptr<Mapping> Objects::take_mapping(Handle handle) {
  const std::lock_guard lock(mutex_);
  return take(mappings_, handle, "mapping");
}

void Objects::clear() {
  std::map<Handle, std::shared_ptr<SharedFd>> fds;
  std::map<Handle, std::shared_ptr<Mapping>> mappings;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    fds = std::exchange(fds_, {});
    mappings = std::exchange(mappings_, {});
  }
  // A call that hangs still holds what it uses; its KVM object goes as far as it can.
  for (const auto& [handle, fd] : fds) {
    if (fd.use_count() > 1) fd->close();
  }
}

}  // namespace kvitest::raw
