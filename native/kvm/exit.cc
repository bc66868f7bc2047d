#include "native/kvm/exit.h"

#include <linux/kvm.h>

#include <array>

namespace kvitest {

std::string exit_name(std::uint32_t reason) {
  switch (reason) {
    case KVM_EXIT_UNKNOWN:
      return "unknown";
    case KVM_EXIT_EXCEPTION:
      return "exception";
    case KVM_EXIT_IO:
      return "io";
    case KVM_EXIT_HYPERCALL:
      return "hypercall";
    case KVM_EXIT_DEBUG:
      return "debug";
    case KVM_EXIT_HLT:
      return "hlt";
    case KVM_EXIT_MMIO:
      return "mmio";
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return "irq-window-open";
    case KVM_EXIT_SHUTDOWN:
      return "shutdown";
    case KVM_EXIT_FAIL_ENTRY:
      return "fail-entry";
    case KVM_EXIT_INTR:
      return "intr";
    case KVM_EXIT_SET_TPR:
      return "set-tpr";
    case KVM_EXIT_TPR_ACCESS:
      return "tpr-access";
    case KVM_EXIT_INTERNAL_ERROR:
      return "internal-error";
    case KVM_EXIT_SYSTEM_EVENT:
      return "system-event";
    case KVM_EXIT_IOAPIC_EOI:
      return "ioapic-eoi";
    default:
      return "exit-" + std::to_string(reason);
  }
}

}  // namespace kvitest
