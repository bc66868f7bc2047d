// A machine as a test wants it: asynchronous calls made synchronous, events collected.
#pragma once

#include <chrono>
#include <condition_variable>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "native/machine/machine.h"

namespace kvitest {

// This user cannot open /dev/kvm: whole suites are skipped then.
bool no_kvm();

// A bare guest of fixtures/guests with one vCPU and 2 MiB, without irqchip.
MachineSpec bare(const std::string& guest, int ring = 0);

// What an asynchronous call answers, which is waited for; throws what it answers with.
template <typename Value, typename Call>
Value awaited(Call call) {
  std::promise<std::pair<Value, std::exception_ptr>> promise;
  call([&promise](Value value, std::exception_ptr error) {
    promise.set_value({std::move(value), std::move(error)});
  });
  auto [value, error] = promise.get_future().get();
  if (error) std::rethrow_exception(std::move(error));
  return std::move(value);
}
template <typename Call>
void await(Call call) {
  awaited<std::monostate>([&call](auto done) {
    call([done](std::exception_ptr error) { done({}, std::move(error)); });
  });
}

class TestMachine {
 public:
  explicit TestMachine(MachineSpec spec);
  explicit TestMachine(std::shared_ptr<const Checkpoint> origin, ForkOptions options = {});
  ~TestMachine();

  // Throw what the machine answers.
  void create();
  void start();
  MachineEnd stop();
  void write(const std::string& channel, const std::string& text);
  std::vector<VcpuState> inspect();
  std::shared_ptr<const Checkpoint> checkpoint();
  void keep_end();
  void reset(ForkOptions options = {});

  // Credit is given back by itself unless this is off.
  void acknowledge(bool on) { acknowledge_ = on; }
  // Waits; throws std::runtime_error after `limit`.
  MachineEnd wait_for_end(std::chrono::seconds limit = std::chrono::seconds(60));
  void wait_for_text(const std::string& channel, const std::string& text,
                     std::chrono::seconds limit = std::chrono::seconds(60));
  std::string text(const std::string& channel);
  int end_events();
  // Everything that came, in order: "CHANNEL:TEXT", "mark:checkpoint", "end"...
  std::vector<std::string> log();
  void clear_text();

  Machine& machine() { return *machine_; }
  // Called with every piece of output, on a native thread.
  std::function<void(const std::string& channel, const std::string& text)> on_output;

 private:
  void take();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string> text_;
  std::optional<MachineEnd> end_;
  int end_events_ = 0;
  std::vector<std::string> log_;
  bool acknowledge_ = true;
  std::unique_ptr<Machine> machine_;
};

}  // namespace kvitest
