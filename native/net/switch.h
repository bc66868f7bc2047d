// A switch between guests of this process: who names the same network is on it.
#pragma once

#include <memory>
#include <string>

#include "native/net/link.h"

namespace kvitest {

// Frames that may wait for one guest. Further ones are dropped and counted: a guest that does not
// read never holds the others back.
inline constexpr std::size_t kSwitchBacklog = 512;
inline constexpr std::size_t kSwitchBacklogBytes = 4 * 1024 * 1024;
// Addresses that one network remembers; when it is full it forgets them all, and floods.
inline constexpr std::size_t kSwitchAddresses = 4096;

// The network is there as long as somebody is on it.
std::unique_ptr<Link> join_network(const std::string& name, FramesWaiting frames_waiting);

}  // namespace kvitest
