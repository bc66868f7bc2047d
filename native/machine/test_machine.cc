#include "native/machine/test_machine.h"

#include <unistd.h>

#include <future>
#include <stdexcept>

namespace kvitest {

bool no_kvm() {
  return ::access("/dev/kvm", R_OK | W_OK) != 0;
}

MachineSpec bare(const std::string& guest, int ring) {
  MachineSpec spec;
  spec.name = guest;
  spec.memory = 2 << 20;
  spec.payload = BarePayload{KVITEST_GUESTS "/" + guest + ".elf", ring};
  return spec;
}

TestMachine::TestMachine(MachineSpec spec)
    : machine_(
          std::make_unique<Machine>(std::move(spec), Machine::Owner{[this] { take(); }, [] {}})) {}

TestMachine::TestMachine(std::shared_ptr<const Checkpoint> origin, ForkOptions options)
    : machine_(std::make_unique<Machine>(std::move(origin), std::move(options),
                                         Machine::Owner{[this] { take(); }, [] {}})) {}

TestMachine::~TestMachine() {
  stop();
  machine_->join();
}

void TestMachine::take() {
  std::unique_lock lock(mutex_);
  for (Event& event : machine_->take_events()) {
    if (const auto* data = std::get_if<DataEvent>(&event)) {
      const std::string piece(reinterpret_cast<const char*>(data->data.data()), data->data.size());
      text_[data->channel] += piece;
      log_.push_back(data->channel + ":" + piece);
      if (acknowledge_) machine_->consumed(data->channel, data->data.size());
      if (on_output) on_output(data->channel, piece);
    }
    if (const auto* mark = std::get_if<MarkEvent>(&event)) {
      log_.push_back(mark->reset ? "mark:reset" : "mark:checkpoint");
    }
    if (auto* end = std::get_if<EndEvent>(&event)) {
      end_ = std::move(end->end);
      log_.push_back("end");
      ++end_events_;
    }
  }
  changed_.notify_all();
}

void TestMachine::create() {
  await([this](Machine::Done done) { machine_->create(std::move(done)); });
}

void TestMachine::start() {
  await([this](Machine::Done done) { machine_->start(std::move(done)); });
}

MachineEnd TestMachine::stop() {
  std::promise<MachineEnd> promise;
  machine_->stop([&promise](const MachineEnd& end) { promise.set_value(end); });
  return promise.get_future().get();
}

void TestMachine::write(const std::string& channel, const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  await([&](Machine::Done done) {
    machine_->write(channel, {bytes.begin(), bytes.end()}, std::move(done));
  });
}

std::vector<VcpuState> TestMachine::inspect() {
  return awaited<std::vector<VcpuState>>([this](auto done) { machine_->inspect(std::move(done)); });
}

std::shared_ptr<const Checkpoint> TestMachine::checkpoint() {
  return awaited<std::shared_ptr<const Checkpoint>>(
      [this](auto done) { machine_->checkpoint(std::move(done)); });
}

void TestMachine::keep_end() {
  await([this](Machine::Done done) { machine_->keep_end(std::move(done)); });
}

void TestMachine::reset(ForkOptions options) {
  await([&](Machine::Done done) { machine_->reset(std::move(options), std::move(done)); });
}

MachineEnd TestMachine::wait_for_end(std::chrono::seconds limit) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, limit, [this] { return end_.has_value(); })) {
    throw std::runtime_error("the machine has not ended");
  }
  return *end_;
}

void TestMachine::wait_for_text(const std::string& channel, const std::string& text,
                                std::chrono::seconds limit) {
  std::unique_lock lock(mutex_);
  const auto seen = [&] { return text_[channel].find(text) != std::string::npos; };
  if (!changed_.wait_for(lock, limit, seen)) {
    throw std::runtime_error("\"" + text + "\" did not come on " + channel +
                             ", but: " + text_[channel]);
  }
}

std::string TestMachine::text(const std::string& channel) {
  const std::lock_guard lock(mutex_);
  return text_[channel];
}

std::vector<std::string> TestMachine::log() {
  const std::lock_guard lock(mutex_);
  return log_;
}

void TestMachine::clear_text() {
  const std::lock_guard lock(mutex_);
  text_.clear();
  log_.clear();
}

int TestMachine::end_events() {
  const std::lock_guard lock(mutex_);
  return end_events_;
}

}  // namespace kvitest
