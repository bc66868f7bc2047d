// What a sender left for the hardware, done in software: for receivers that want plain frames.
#pragma once

#include <vector>

#include "native/net/link.h"

namespace kvitest {

// True when what the frame says of itself fits its bytes: the checksum's place is inside, and a
// segmented frame is TCP of that kind with a whole header and a piece size above 0.
bool offloads_fit(const Frame& frame);

// Does the sum. Only for a frame whose offloads fit.
void complete_checksum(Frame& frame);

// The frames that a segmented one stands for, each with its own length, identification, sequence
// number, flags and a partial checksum. Only for a frame whose offloads fit.
std::vector<Frame> cut_segments(const Frame& frame);

}  // namespace kvitest
