/**
 * Not to be included: what most files of native/ include of the standard library, compiled once
 * instead of 270 times (CMakeLists.txt). Every file names what it uses all the same, since builds
 * with sanitizers and with ccache go without this.
 */
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <variant>
#include <vector>
