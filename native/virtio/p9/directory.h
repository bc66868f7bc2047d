// A directory of the host that a guest works in and cannot leave.
//
// Every path is looked up from the directory itself, at every call, by openat2 with
// RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS and RESOLVE_NO_XDEV: whatever someone
// on the host swaps meanwhile, the kernel follows no link and leaves no directory upwards. The last
// part of a path is never followed either: the client of 9P reads links and walks where they lead
// by itself. Only regular files and directories are opened.
#pragma once

#include <sys/stat.h>
#include <sys/statfs.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "native/unique_fd.h"

namespace kvitest {

// 0, or the errno: a guest is told.
using Errno = int;

class Directory {
 public:
  // Throws Error when it cannot be opened.
  explicit Directory(const std::string& path);

  // Paths: names with '/' between them, empty for the directory itself.

  // A file as a place, whatever it is: an O_PATH descriptor.
  Errno find(const std::string& path, UniqueFd& place) const;
  Errno status(const std::string& path, struct stat& status) const;
  // flags: access mode, O_TRUNC, O_DSYNC, O_SYNC. EACCES for what is no file and no directory.
  Errno open(const std::string& path, int flags, UniqueFd& file) const;
  // EEXIST when there is something, a link too.
  Errno create(const std::string& path, int flags, mode_t mode, UniqueFd& file) const;
  Errno make_directory(const std::string& path, mode_t mode) const;
  Errno make_link(const std::string& path, const std::string& target) const;
  Errno read_link(const std::string& path, std::string& target) const;
  Errno hard_link(const std::string& existing, const std::string& path) const;
  Errno rename(const std::string& from, const std::string& to) const;
  Errno remove(const std::string& path, bool directory) const;
  Errno file_system(const std::string& path, struct statfs& status) const;

 private:
  Errno parent(const std::string& path, UniqueFd& place, std::string& name) const;

  UniqueFd root_;
};

// The descriptor's file again, opened in another way; the file itself, not what is at its path now.
Errno reopen(int place, int flags, UniqueFd& file);

// Whether it can be one part of a path: not empty, no '/', no NUL, neither "." nor "..", at most
// 255 bytes.
bool is_name(std::string_view name);

}  // namespace kvitest
