#include "native/bus/shared_lines.h"

namespace kvitest {

SharedLines::Source::~Source() {
  const std::lock_guard lock(lines_.mutex_);
  for (auto& [gsi, sources] : lines_.asserted_) sources.erase(this);
}

void SharedLines::Source::set_irq_line(std::uint32_t gsi, bool level) {
  const std::lock_guard lock(lines_.mutex_);
  std::set<const Source*>& sources = lines_.asserted_[gsi];
  if (level) {
    sources.insert(this);
  } else {
    sources.erase(this);
  }
  lines_.controller_.set_irq_line(gsi, !sources.empty());
}

void SharedLines::Source::signal_msi(const MsiMessage& message) {
  lines_.controller_.signal_msi(message);
}

bool SharedLines::Source::add_irqfd(int eventfd, const MsiMessage& message) {
  return lines_.controller_.add_irqfd(eventfd, message);
}

void SharedLines::Source::remove_irqfd(int eventfd) {
  lines_.controller_.remove_irqfd(eventfd);
}

}  // namespace kvitest
