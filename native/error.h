// What every native layer throws when a host-side operation fails. Guest-caused conditions are
// never reported this way: they are values (bool, optional) that a device answers as its
// specification says.
#pragma once

#include <cerrno>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

namespace kvitest {

class Error : public std::exception {
 public:
  // operation: what was tried, by its field name ("KVM_CREATE_VM", "load bzImage").
  // code: the errno, or 0 where none applies. detail: the object (path, size) and the cause.
  // hint: what a person does next; may be empty.
  Error(std::string operation, int code, std::string detail, std::string hint = {})
      : operation_(std::move(operation)),
        code_(code),
        detail_(std::move(detail)),
        hint_(std::move(hint)) {
    line_ = operation_ + ": " + detail_;
    if (code_ != 0) line_ += std::string(" (") + std::strerror(code_) + ")";
    if (!hint_.empty()) line_ += "; " + hint_;
  }

  const char* what() const noexcept override { return line_.c_str(); }
  const std::string& operation() const { return operation_; }
  int code() const { return code_; }
  const std::string& detail() const { return detail_; }
  const std::string& hint() const { return hint_; }

 private:
  std::string operation_;
  int code_;
  std::string detail_;
  std::string hint_;
  std::string line_;
};

}  // namespace kvitest
