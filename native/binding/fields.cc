#include "native/binding/fields.h"

#include <cerrno>
#include <cmath>

#include "native/error.h"

namespace kvitest {

[[noreturn]] void refuse(const char* operation, const std::string& detail) {
  throw Error(operation, EINVAL, detail, "see src/native/contract.ts");
}

Napi::Object object_of(const Napi::Value& value, const char* operation, const char* what) {
  if (!value.IsObject()) refuse(operation, std::string(what) + " is not an object");
  return value.As<Napi::Object>();
}

Napi::Array array_of(const Napi::Value& value, const char* what) {
  if (!value.IsArray()) refuse(kSpec, std::string(what) + " is not an array");
  return value.As<Napi::Array>();
}

bool boolean_or(const Napi::Value& value, const char* what, bool fallback) {
  if (value.IsUndefined()) return fallback;
  if (!value.IsBoolean()) refuse(kSpec, std::string(what) + " is not a boolean");
  return value.As<Napi::Boolean>().Value();
}

std::string string_of(const Napi::Value& value, const char* operation, const char* what) {
  if (!value.IsString()) refuse(operation, std::string(what) + " is not a string");
  return value.As<Napi::String>().Utf8Value();
}

std::uint64_t integer_of(const Napi::Value& value, const char* operation, const char* what,
                         std::uint64_t low, std::uint64_t high) {
  if (!value.IsNumber()) refuse(operation, std::string(what) + " is not a number");
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= static_cast<double>(low) && number <= static_cast<double>(high)) ||
      std::trunc(number) != number) {
    refuse(operation, std::string(what) + " is not a whole number from " + std::to_string(low) +
                          " to " + std::to_string(high));
  }
  return static_cast<std::uint64_t>(number);
}

std::vector<std::byte> bytes_of(const Napi::Value& value, const char* operation) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    refuse(operation, "the data is not a Uint8Array");
  }
  const auto array = value.As<Napi::Uint8Array>();
  const auto* data = reinterpret_cast<const std::byte*>(array.Data());
  return {data, data + array.ByteLength()};
}

}  // namespace kvitest
