// Reads of a file for a guest, by an io_uring: what the host has in its page
// cache is answered by the thread that asked, without a hand-over to another.
// Writes are for threads: most file systems do no buffered write at once, and
// the kernel's own threads cost more than ours.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "native/disk/uring.h"
#include "native/virtio/blk/request.h"
#include "native/virtio/request_queues.h"

namespace kvitest {

// Larger ones are for threads: what is in the page cache is copied before the doorbell returns.
inline constexpr std::uint64_t kUringMaxBytes = 1 << 20;
inline constexpr unsigned kUringEntries = 64;

// Locks itself, and holds no lock while it calls `give_back`.
class UringIo {
 public:
  // file: of the disk, for as long as this is. give_back: of a job that is
  // done, with its used length; on the thread that called submit() or one of
  // its own.
  UringIo(std::string name, std::unique_ptr<Uring> ring, int file,
          std::function<void(RequestQueues::Job&, std::uint32_t)> give_back);
  // Nothing is under way any more.
  ~UringIo();
  UringIo(const UringIo&) = delete;
  UringIo& operator=(const UringIo&) = delete;

  // Takes a job that reads sectors, when there is room; the others are left as
  // they were.
  bool begin(RequestQueues::Job& job, const BlkContext& context);
  // Gives the kernel what began. Throws Error.
  void submit();

 private:
  struct Operation {
    RequestQueues::Job job;  // its chain at the start of the answer
    DescriptorChain answered;
    Disk* disk;
    Transfer transfer;
    std::vector<iovec> pieces;  // of the answer, in guest memory
  };

  void collect();
  void finish(Operation& operation, std::int32_t result);
  void run();

  const std::string name_;
  const std::unique_ptr<Uring> ring_;
  const int file_;
  const std::function<void(RequestQueues::Job&, std::uint32_t)> give_back_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::optional<Operation>> operations_;  // by tag
  std::vector<std::uint64_t> free_;                   // tags
  std::size_t under_way_ = 0;
  bool ending_ = false;
  std::thread thread_;  // started when something has to be waited for
};

}  // namespace kvitest
