// A virtio driver that does what a fuzzer's input says: mostly nonsense, and now and then a request
// that is nearly right, so that the fuzzer gets behind the first check.
#pragma once

#include <functional>

#include "native/fuzz/input.h"
#include "native/virtio/device.h"
#include "native/virtio/test_driver.h"

namespace kvitest {

// The device, made to offer what its transport offers only when asked. Before it has a transport.
VirtioDevice& with_all_features(VirtioDevice& device);

class HostileDriver {
 public:
  explicit HostileDriver(VirtioDevice& device);

  // Until the input ends. host: what the other side of the device does meanwhile, as the input
  // says.
  void run(FuzzInput& input, const std::function<void(FuzzInput&)>& host = {});

 private:
  void start(FuzzInput& input);
  void access_bar(FuzzInput& input);
  void access_config(FuzzInput& input);
  void corrupt_ring(FuzzInput& input);
  void request(FuzzInput& input);
  void reset_queue(std::uint8_t what);
  void write_memory(FuzzInput& input);
  std::uint64_t address(FuzzInput& input);

  TestBoard board_;
  TestDriver driver_{board_};
  std::uint16_t queues_ = 0;
  bool packed_ = false;
};

}  // namespace kvitest
