// Fields of plain JS values. All throw Error (EINVAL) that names what is not as contract.ts says.
#pragma once

#include <napi.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kvitest {

inline constexpr const char* kSpec = "machine spec";
inline constexpr std::uint64_t kMaxSafeInteger = (std::uint64_t{1} << 53) - 1;

[[noreturn]] void refuse(const char* operation, const std::string& detail);
Napi::Object object_of(const Napi::Value& value, const char* operation, const char* what);
Napi::Array array_of(const Napi::Value& value, const char* what);
bool boolean_or(const Napi::Value& value, const char* what, bool fallback);
// A copy of a Uint8Array's bytes. Throws Error (EINVAL).
std::vector<std::byte> bytes_of(const Napi::Value& value, const char* operation);
// Throws Error (EINVAL).
std::string string_of(const Napi::Value& value, const char* operation, const char* what);
// An integer in [low, high]. Throws Error (EINVAL).
std::uint64_t integer_of(const Napi::Value& value, const char* operation, const char* what,
                         std::uint64_t low, std::uint64_t high);

}  // namespace kvitest
