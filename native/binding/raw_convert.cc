#include "native/binding/raw_convert.h"

#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "native/binding/convert.h"
#include "native/error.h"

namespace kvitest {
namespace {

constexpr const char* kWhere = "raw KVM access";
constexpr std::uint64_t kMaxSafeInteger = (std::uint64_t{1} << 53) - 1;

[[noreturn]] void refuse(const std::string& detail) {
  throw Error(kWhere, EINVAL, detail, "see src/native/raw-contract.ts");
}

// The fields of one plain object.
class Fields {
 public:
  explicit Fields(Napi::Object object) : object_(object) {}

  bool has(const char* name) const { return !object_.Get(name).IsUndefined(); }
  Napi::Value value(const char* name) const { return object_.Get(name); }
  std::uint64_t integer(const char* name, std::uint64_t high) const {
    return integer_of(object_.Get(name), kWhere, name, 0, high);
  }
  std::uint64_t integer_or(const char* name, std::uint64_t high, std::uint64_t fallback) const {
    return has(name) ? integer(name, high) : fallback;
  }
  raw::Handle handle(const char* name) const {
    return static_cast<raw::Handle>(integer(name, std::numeric_limits<raw::Handle>::max()));
  }
  std::string string(const char* name) const { return string_of(object_.Get(name), kWhere, name); }
  std::vector<std::byte> bytes(const char* name) const {
    return bytes_of(object_.Get(name), kWhere);
  }
  bool flag(const char* name) const {
    const Napi::Value value = object_.Get(name);
    if (!value.IsUndefined() && !value.IsBoolean()) refuse(std::string(name) + " is no boolean");
    return value.IsBoolean() && value.As<Napi::Boolean>().Value();
  }

 private:
  Napi::Object object_;
};

Fields fields_of(const Napi::Value& value, const char* what) {
  if (!value.IsObject()) refuse(std::string(what) + " is not an object");
  return Fields(value.As<Napi::Object>());
}

std::uint64_t word_of(const Napi::Value& value) {
  if (!value.IsBigInt()) return integer_of(value, kWhere, "argument", 0, kMaxSafeInteger);
  bool lossless = false;
  const std::uint64_t word = value.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) refuse("argument does not fit 64 bits");
  return word;
}

raw::Patch patch_of(const Napi::Value& value) {
  const Fields fields = fields_of(value, "a patch");
  raw::Patch patch;
  patch.at = fields.integer("at", raw::kMaxArgument);
  if (fields.has("fd")) {
    patch.what = raw::Patch::What::kFd;
    patch.handle = fields.handle("fd");
  } else {
    patch.handle = fields.handle("memory");
    patch.offset = fields.integer_or("offset", raw::kMaxMapping, 0);
  }
  return patch;
}

raw::Argument argument_of(const Fields& fields) {
  const Napi::Value value = fields.value("argument");
  if (value.IsUndefined()) return raw::ValueArgument{};
  if (value.IsNumber() || value.IsBigInt()) return raw::ValueArgument{word_of(value)};
  if (!value.IsTypedArray()) {
    const Fields memory = fields_of(value, "argument");
    return raw::MemoryArgument{memory.handle("memory"),
                               memory.integer_or("offset", raw::kMaxMapping, 0)};
  }
  raw::BytesArgument argument;
  argument.data = bytes_of(value, kWhere);
  if (!fields.has("patches")) return argument;
  if (!fields.value("patches").IsArray()) refuse("patches is not an array");
  const auto patches = fields.value("patches").As<Napi::Array>();
  for (std::uint32_t i = 0; i < patches.Length(); ++i) {
    argument.patches.push_back(patch_of(patches.Get(i)));
  }
  return argument;
}

unsigned repeat_of(const Fields& fields) {
  const auto repeat = static_cast<unsigned>(fields.integer_or("repeat", raw::kMaxRepeat, 1));
  if (repeat == 0) refuse("repeat is 0");
  return repeat;
}

std::optional<raw::Child> child_of(const Fields& call) {
  if (!call.has("inChild")) return std::nullopt;
  if (call.value("inChild").IsBoolean()) {
    return call.flag("inChild") ? std::optional(raw::Child{}) : std::nullopt;
  }
  const Fields fields = fields_of(call.value("inChild"), "inChild");
  raw::Child child;
  if (fields.has("files")) {
    child.files = static_cast<unsigned>(fields.integer("files", raw::kMaxHandles));
  }
  if (fields.has("first")) child.first = fields.integer("first", 0xffffffff);
  if (!fields.has("exec")) return child;
  const std::string exec = fields.string("exec");
  if (exec != "leave" && exec != "inherit") refuse("exec is " + exec);
  child.exec = exec == "leave" ? raw::Child::Exec::kLeave : raw::Child::Exec::kInherit;
  return child;
}

raw::Operation operation_of(const Fields& fields) {
  const std::string what = fields.string("do");
  if (what == "open") return raw::Open{fields.string("path"), fields.handle("as")};
  if (what == "ioctl") {
    return raw::Ioctl{.fd = fields.handle("fd"),
                      .request = fields.integer("request", 0xffffffff),
                      .argument = argument_of(fields),
                      .as = fields.has("as") ? fields.handle("as") : 0,
                      .repeat = repeat_of(fields),
                      .in_child = child_of(fields)};
  }
  if (what == "run") {
    return raw::Run{.vcpu = fields.handle("vcpu"),
                    .area = fields.handle("area"),
                    .immediate_exit = fields.flag("immediateExit"),
                    .repeat = repeat_of(fields)};
  }
  if (what == "map") {
    return raw::Map{.fd = fields.has("fd") ? std::optional(fields.handle("fd")) : std::nullopt,
                    .bytes = fields.integer("bytes", kMaxSafeInteger),
                    .offset = fields.integer_or("offset", kMaxSafeInteger, 0),
                    .shared = fields.flag("shared"),
                    .huge = fields.flag("huge"),
                    .as = fields.handle("as")};
  }
  if (what == "unmap") return raw::Unmap{fields.handle("memory")};
  if (what == "read") {
    return raw::Read{fields.handle("memory"), fields.integer("offset", kMaxSafeInteger),
                     fields.integer("length", kMaxSafeInteger)};
  }
  if (what == "write") {
    return raw::Write{fields.handle("memory"), fields.integer("offset", kMaxSafeInteger),
                      fields.bytes("data")};
  }
  if (what == "eventfd") {
    return raw::Eventfd{static_cast<unsigned>(fields.integer_or("initial", 0xffffffff, 0)),
                        fields.flag("semaphore"), fields.handle("as")};
  }
  if (what == "readFd") {
    return raw::ReadFd{fields.handle("fd"), fields.integer("length", kMaxSafeInteger),
                       fields.has("offset")
                           ? std::optional(fields.integer("offset", kMaxSafeInteger))
                           : std::nullopt};
  }
  if (what == "writeFd") return raw::WriteFd{fields.handle("fd"), fields.bytes("data")};
  if (what == "close") return raw::Close{fields.handle("fd")};
  if (what == "countThreads") return raw::CountThreads{};
  if (what == "signal") {
    return raw::Signal{fields.string("target"),
                       static_cast<unsigned>(fields.integer_or("count", raw::kMaxRepeat, 1))};
  }
  refuse("no operation \"" + what + "\"");
}

std::string errno_name(int code) {
  const char* const name = ::strerrorname_np(code);
  return name != nullptr ? name : "errno-" + std::to_string(code);
}

}  // namespace

raw::Call raw_call(const Napi::Value& value) {
  constexpr std::uint64_t kMaxDeadline = 3'600'000;
  const Fields fields = fields_of(value, "the call");
  raw::Call call;
  call.operation = operation_of(fields);
  if (fields.has("thread")) call.thread = fields.string("thread");
  if (fields.has("deadline")) {
    call.deadline = std::chrono::milliseconds(fields.integer("deadline", kMaxDeadline));
  }
  return call;
}

Napi::Value to_js(Napi::Env env, const raw::Result& result) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("value", static_cast<double>(result.value));
  if (result.code != 0) object.Set("errno", errno_name(result.code));
  if (result.has_data) object.Set("data", to_js(env, result.data));
  if (result.made_fd) object.Set("madeFd", true);
  if (result.address) object.Set("address", Napi::BigInt::New(env, *result.address));
  if (!result.outcomes.empty()) {
    Napi::Object outcomes = Napi::Object::New(env);
    for (const auto& [code, count] : result.outcomes) {
      outcomes.Set(code == 0 ? "ok" : errno_name(code), count);
    }
    object.Set("outcomes", outcomes);
  }
  if (result.expired) object.Set("expired", true);
  if (result.hung) object.Set("hung", true);
  return object;
}

}  // namespace kvitest
