#include "native/virtio/p9/directory.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "native/error.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kConfined =
    RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
// Of what the guest creates: a set-user-ID file would be one of the host's.
constexpr mode_t kPermissions = 0777;

// openat2(2); EAGAIN asks to try again, of a lookup that raced with a rename.
int open_confined(int root, const char* path, int flags) {
  struct open_how how {};
  how.flags = static_cast<std::uint64_t>(flags) | O_CLOEXEC;
  how.resolve = kConfined;
  for (int attempt = 0;; ++attempt) {
    const auto fd = static_cast<int>(::syscall(SYS_openat2, root, path, &how, sizeof how));
    if (fd >= 0 || attempt == 16 || (errno != EAGAIN && errno != EINTR)) return fd;
  }
}

Errno result(int status) {
  return status < 0 ? errno : 0;
}

}  // namespace

bool is_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.size() <= NAME_MAX &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

Directory::Directory(const std::string& path)
    : root_(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)) {
  if (!root_) {
    throw Error("open the directory", errno, path, "give a directory that is there");
  }
  UniqueFd place;
  if (const Errno code = find("", place); code != 0) {
    throw Error("openat2", code, path, "a virtio-9p needs a host with Linux 5.6 or newer");
  }
}

Errno Directory::find(const std::string& path, UniqueFd& place) const {
  const char* const name = path.empty() ? "." : path.c_str();
  place = UniqueFd(open_confined(root_.get(), name, O_PATH | O_NOFOLLOW));
  return place ? 0 : errno;
}

Errno Directory::status(const std::string& path, struct stat& status) const {
  UniqueFd place;
  if (const Errno code = find(path, place); code != 0) return code;
  return result(::fstat(place.get(), &status));
}

Errno reopen(int place, int flags, UniqueFd& file) {
  struct stat status {};
  if (::fstat(place, &status) < 0) return errno;
  if (S_ISLNK(status.st_mode)) return ELOOP;
  // Opening a device, a FIFO or a socket does things to it, or waits.
  if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) return EACCES;
  // A magic link, of this process's own: it leads to the very file that was looked at.
  std::array<char, 40> path;
  snprintf(path.data(), path.size(), "/proc/self/fd/%d", place);
  file = UniqueFd(::open(path.data(), flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  return file ? 0 : errno;
}

Errno Directory::open(const std::string& path, int flags, UniqueFd& file) const {
  UniqueFd place;
  if (const Errno code = find(path, place); code != 0) return code;
  return reopen(place.get(), flags, file);
}

Errno Directory::parent(const std::string& path, UniqueFd& place, std::string& name) const {
  const std::size_t cut = path.rfind('/');
  name = cut == std::string::npos ? path : path.substr(cut + 1);
  if (!is_name(name)) return EINVAL;
  return find(cut == std::string::npos ? "" : path.substr(0, cut), place);
}

Errno Directory::create(const std::string& path, int flags, mode_t mode, UniqueFd& file) const {
  UniqueFd place;
  std::string name;
  if (const Errno code = parent(path, place, name); code != 0) return code;
  // O_EXCL: it is a new regular file, and no link was followed.
  const int how = flags | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY;
  file = UniqueFd(::openat(place.get(), name.c_str(), how, mode & kPermissions));
  return file ? 0 : errno;
}

Errno Directory::make_directory(const std::string& path, mode_t mode) const {
  UniqueFd place;
  std::string name;
  if (const Errno code = parent(path, place, name); code != 0) return code;
  return result(::mkdirat(place.get(), name.c_str(), mode & kPermissions));
}

Errno Directory::make_link(const std::string& path, const std::string& target) const {
  UniqueFd place;
  std::string name;
  if (const Errno code = parent(path, place, name); code != 0) return code;
  return result(::symlinkat(target.c_str(), place.get(), name.c_str()));
}

Errno Directory::read_link(const std::string& path, std::string& target) const {
  UniqueFd place;
  if (const Errno code = find(path, place); code != 0) return code;
  std::array<char, PATH_MAX> text;
  // Of the link that the descriptor stands for.
  const ssize_t length = ::readlinkat(place.get(), "", text.data(), text.size());
  if (length < 0) return errno == ENOENT ? EINVAL : errno;
  target.assign(text.data(), static_cast<std::size_t>(length));
  return 0;
}

Errno Directory::hard_link(const std::string& existing, const std::string& path) const {
  UniqueFd from, to;
  std::string old_name, name;
  if (const Errno code = parent(existing, from, old_name); code != 0) return code;
  if (const Errno code = parent(path, to, name); code != 0) return code;
  // Without AT_SYMLINK_FOLLOW a link is linked itself.
  return result(::linkat(from.get(), old_name.c_str(), to.get(), name.c_str(), 0));
}

Errno Directory::rename(const std::string& from, const std::string& to) const {
  UniqueFd old_place, place;
  std::string old_name, name;
  if (const Errno code = parent(from, old_place, old_name); code != 0) return code;
  if (const Errno code = parent(to, place, name); code != 0) return code;
  return result(::renameat(old_place.get(), old_name.c_str(), place.get(), name.c_str()));
}

Errno Directory::remove(const std::string& path, bool directory) const {
  UniqueFd place;
  std::string name;
  if (const Errno code = parent(path, place, name); code != 0) return code;
  return result(::unlinkat(place.get(), name.c_str(), directory ? AT_REMOVEDIR : 0));
}

Errno Directory::file_system(const std::string& path, struct statfs& status) const {
  UniqueFd place;
  if (const Errno code = find(path, place); code != 0) return code;
  return result(::fstatfs(place.get(), &status));
}

}  // namespace kvitest
