// Sense data of SCSI (SPC-4, 4.5): what a command that failed says of why.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace kvitest {

// Status codes (SAM-5, 5.3).
inline constexpr std::uint8_t kStatusGood = 0x00;
inline constexpr std::uint8_t kStatusCheckCondition = 0x02;

struct Sense {
  std::uint8_t key = 0;
  std::uint8_t code = 0;       // ASC
  std::uint8_t qualifier = 0;  // ASCQ
  template <typename Archive>
  void fields(Archive& archive) {
    archive(key, code, qualifier);
  }
  bool operator==(const Sense&) const = default;
};

inline constexpr Sense kNoSense{0x0, 0x00, 0x00};
inline constexpr Sense kReadError{0x3, 0x11, 0x00};
inline constexpr Sense kWriteError{0x3, 0x0c, 0x00};
inline constexpr Sense kTargetFailure{0x4, 0x44, 0x00};
inline constexpr Sense kParameterListLength{0x5, 0x1a, 0x00};
inline constexpr Sense kInvalidOpcode{0x5, 0x20, 0x00};
inline constexpr Sense kLbaOutOfRange{0x5, 0x21, 0x00};
inline constexpr Sense kInvalidFieldInCdb{0x5, 0x24, 0x00};
inline constexpr Sense kLunNotSupported{0x5, 0x25, 0x00};
inline constexpr Sense kInvalidFieldInParameters{0x5, 0x26, 0x00};
inline constexpr Sense kPowerOn{0x6, 0x29, 0x00};
inline constexpr Sense kCapacityChanged{0x6, 0x2a, 0x09};
inline constexpr Sense kReportedLunsChanged{0x6, 0x3f, 0x0e};
inline constexpr Sense kWriteProtected{0x7, 0x27, 0x00};

inline constexpr std::size_t kFixedSenseBytes = 18;
inline constexpr std::size_t kDescriptorSenseBytes = 8;

inline std::array<std::byte, kFixedSenseBytes> fixed_sense(const Sense& sense) {
  std::array<std::byte, kFixedSenseBytes> bytes{};
  bytes[0] = std::byte{0x70};  // of this command
  bytes[2] = std::byte{sense.key};
  bytes[7] = std::byte{kFixedSenseBytes - 8};
  bytes[12] = std::byte{sense.code};
  bytes[13] = std::byte{sense.qualifier};
  return bytes;
}

inline std::array<std::byte, kDescriptorSenseBytes> descriptor_sense(const Sense& sense) {
  std::array<std::byte, kDescriptorSenseBytes> bytes{};
  bytes[0] = std::byte{0x72};
  bytes[1] = std::byte{sense.key};
  bytes[2] = std::byte{sense.code};
  bytes[3] = std::byte{sense.qualifier};
  return bytes;
}

}  // namespace kvitest
