#include "native/binding/convert_balloon.h"

#include "native/binding/fields.h"

namespace kvitest {
namespace {

constexpr const char* kBalloon = "balloon";
constexpr std::uint64_t kMaxInterval = 24ull * 3600 * 1000;  // milliseconds

}  // namespace

Machine::BalloonRequest balloon_request(const Napi::Value& value) {
  Machine::BalloonRequest request;
  if (value.IsUndefined()) return request;
  const Napi::Object object = object_of(value, kBalloon, "the request");
  if (!object.Get("target").IsUndefined()) {
    request.target = integer_of(object.Get("target"), kBalloon, "target", 0, kMaxSafeInteger);
  }
  if (!object.Get("interval").IsUndefined()) {
    request.interval = std::chrono::milliseconds(
        integer_of(object.Get("interval"), kBalloon, "interval", 0, kMaxInterval));
  }
  request.statistics = object.Get("statistics").ToBoolean().Value();
  request.hints = object.Get("hints").ToBoolean().Value();
  return request;
}

Napi::Value to_js(Napi::Env env, const BalloonReport& report) {
  Napi::Object object = Napi::Object::New(env);
  const auto put = [&](const char* key, std::uint64_t value) {
    object.Set(key, static_cast<double>(value));
  };
  put("target", report.target);
  put("actual", report.actual);
  put("inflated", report.inflated);
  put("deflated", report.deflated);
  put("reported", report.reported);
  put("hinted", report.hinted);
  put("givenBack", report.given_back);
  put("ignored", report.ignored);
  put("rounds", report.rounds);
  put("updates", report.updates);
  Napi::Object statistics = Napi::Object::New(env);
  for (const auto& [tag, value] : report.statistics) {
    statistics.Set(std::uint32_t{tag}, static_cast<double>(value));
  }
  object.Set("statistics", statistics);
  return object;
}

}  // namespace kvitest
