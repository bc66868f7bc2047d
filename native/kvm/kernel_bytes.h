// The kernel's structures as the bytes a checkpoint holds.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "native/error.h"
#include "native/kvm/ioctl.h"

namespace kvitest {

// Asks a KVM_GET_ request for a structure.
template <typename T>
std::vector<std::byte> get_bytes(int fd, unsigned long request, const char* name, T value = {}) {
  kvm_ioctl(fd, request, name, &value);
  std::vector<std::byte> bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

// The structure in `bytes`, which come from a checkpoint and may have any length.
template <typename T>
T from_bytes(const std::vector<std::byte>& bytes, const char* name) {
  if (bytes.size() != sizeof(T)) {
    throw Error("load checkpoint", EBADMSG,
                std::string(name) + " has " + std::to_string(bytes.size()) +
                    " bytes, this host's KVM takes " + std::to_string(sizeof(T)),
                "take the checkpoint again");
  }
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

// Hands it to a KVM_SET_ request. Nothing for a structure that the checkpoint does not have.
template <typename T>
void set_bytes(int fd, unsigned long request, const char* name,
               const std::vector<std::byte>& bytes) {
  if (bytes.empty()) return;
  T value = from_bytes<T>(bytes, name);
  kvm_ioctl(fd, request, name, &value, "the checkpoint's state");
}

}  // namespace kvitest
