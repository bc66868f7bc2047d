// A server of 9P2000.L over one directory: a request in, its answer out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "native/unique_fd.h"
#include "native/virtio/p9/directory.h"
#include "native/virtio/p9/message.h"
#include "native/virtio/p9/state.h"

namespace kvitest {

inline constexpr std::uint32_t kP9MaxMessage = 512 * 1024;
inline constexpr std::uint32_t kP9MinMessage = 4096;
inline constexpr std::size_t kP9MaxFids = 4096;
inline constexpr std::size_t kP9MaxOpen = 256;
inline constexpr std::uint16_t kP9MaxWalk = 16;

// Not locked. It may wait for the host's file system.
class P9Server {
 public:
  P9Server(const std::string& path, bool read_only) : directory_(path), read_only_(read_only) {}

  // room: bytes that the answer may have. Whatever the request is, an answer comes back; an empty
  // one where not even an error has room.
  std::vector<std::byte> answer(std::span<const std::byte> request, std::size_t room);
  // Forgets every fid.
  void reset();

  P9State state() const;
  // Opens by path what was open. A fid whose file is not there any more, or is another one, stays,
  // and every request for it is answered with ESTALE. False for a state that cannot be.
  bool load(const P9State& state);

 private:
  struct Fid {
    std::string path;
    std::uint64_t inode = 0;
    UniqueFd file{};  // once it is open
    std::uint32_t flags = 0;
    bool stale = false;
  };
  struct Request {
    P9Reader reader;
    P9Writer answer;
    std::size_t room;
  };

  Errno dispatch(P9Type type, Request& request);
  Errno version(Request& request);
  Errno attach(Request& request);
  Errno walk(Request& request);
  Errno open(Request& request);
  Errno create(Request& request);
  Errno make_directory(Request& request);
  Errno make_link(Request& request);
  Errno hard_link(Request& request);
  Errno read_link(Request& request);
  Errno get_attributes(Request& request);
  Errno set_attributes(Request& request);
  Errno read(Request& request);
  Errno write(Request& request);
  Errno read_directory(Request& request);
  Errno sync(Request& request);
  Errno file_system(Request& request);
  Errno rename_fid(Request& request);
  Errno rename_at(Request& request);
  Errno unlink_at(Request& request);
  Errno remove_fid(Request& request);
  Errno clunk(Request& request);
  Errno lock(Request& request);
  Errno get_lock(Request& request);

  // The fid of that number: EBADF, ESTALE.
  Errno find(std::uint32_t number, Fid*& fid);
  Errno find_open(std::uint32_t number, Fid*& fid);
  // A path below a fid's directory.
  Errno below(std::uint32_t number, const std::string& name, std::string& path);
  Errno status(const Fid& fid, struct stat& status);
  Errno qid_of(const std::string& path, P9Qid& qid);
  // What `act` puts at a new path below a fid's directory, answered with its qid.
  using Act = std::function<Errno(const std::string& path)>;
  Errno make(Request& request, std::uint32_t directory, const std::string& name, const Act& act);
  Errno add(std::uint32_t number, Fid fid);
  void moved(const std::string& from, const std::string& to);
  std::size_t opened() const;

  Directory directory_;
  bool read_only_;
  std::uint32_t message_size_ = 0;
  std::map<std::uint32_t, Fid> fids_;
};

}  // namespace kvitest
