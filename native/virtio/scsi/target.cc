#include "native/virtio/scsi/target.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

namespace kvitest {
namespace {

enum Opcode : std::uint8_t {
  kTestUnitReady = 0x00,
  kRequestSense = 0x03,
  kInquiry = 0x12,
  kModeSense6 = 0x1a,
  kReadCapacity10 = 0x25,
  kModeSense10 = 0x5a,
  kServiceActionIn16 = 0x9e,
  kReportLuns = 0xa0,
};

constexpr std::uint8_t kReadCapacity16 = 0x10;  // service action
constexpr std::uint8_t kNoSuchUnit = 0x7f;      // peripheral qualifier 3, device type 1Fh
constexpr std::uint8_t kWellKnownUnit = 0x1e;
constexpr std::uint8_t kSpc4 = 0x06;
constexpr Sense kSavingNotSupported{0x5, 0x39, 0x00};
constexpr std::array<std::uint8_t, 6> kVpdPages{0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2};
constexpr std::string_view kVendor = "KVITEST ";
constexpr std::string_view kProduct = "DISK            ";
constexpr std::uint32_t kPhysicalBlock = kClusterSize;
constexpr std::uint32_t kOptimalBytes = 64 * 1024;

using Bytes = std::vector<std::byte>;

std::uint8_t byte(const Cdb& cdb, std::size_t at) {
  return std::to_integer<std::uint8_t>(cdb[at]);
}

void put_text(Bytes& bytes, std::string_view text) {
  for (const char one : text) bytes.push_back(static_cast<std::byte>(one));
}

// Data of at most `allocation` bytes, as the CDB says.
ScsiResult answer(ScsiCommand& command, const Bytes& data, std::uint64_t allocation) {
  if (allocation > command.data_in) return {.response = ScsiResponse::kOverrun};
  const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(data.size(), allocation));
  return {.transferred = command.chain->write(std::span(data).first(length))};
}

// ---- INQUIRY (SPC-4, 6.6, 7.8; SBC-3, 6.6)

Bytes standard_inquiry(std::uint8_t type) {
  Bytes data{std::byte{type}, std::byte{0}, std::byte{kSpc4}, std::byte{0x12},
             std::byte{31},   std::byte{0}, std::byte{0},     std::byte{0x02}};
  put_text(data, kVendor);
  put_text(data, kProduct);
  put_text(data, "1   ");
  return data;
}

// What tells this unit from all others (SPC-4, 7.8.6): by text, and as a locally assigned number.
Bytes identification(const ScsiLunSpec& spec) {
  const std::string id = spec.serial.empty() ? spec.name : spec.serial;
  Bytes data{std::byte{2}, std::byte{1}, std::byte{0},
             static_cast<std::byte>(kVendor.size() + id.size())};
  put_text(data, kVendor);
  put_text(data, id);
  // FNV-1a
  std::uint64_t number = 0xcbf29ce484222325;
  for (const char one : id) number = (number ^ static_cast<std::uint8_t>(one)) * 0x100000001b3;
  data.insert(data.end(), {std::byte{1}, std::byte{3}, std::byte{0}, std::byte{8}});
  const std::size_t at = data.size();
  data.resize(at + 8);
  store_be<std::uint64_t>(data, at, (number >> 4) | std::uint64_t{3} << 60);
  return data;
}

Bytes block_limits(const ScsiLunSpec& spec) {
  Bytes data(60);  // offsets are those of the page less 4
  const std::uint32_t block = spec.block_size;
  data[0] = std::byte{1};  // WSNZ
  store_be<std::uint16_t>(data, 2, static_cast<std::uint16_t>(kPhysicalBlock / block));
  store_be<std::uint32_t>(data, 4, static_cast<std::uint32_t>(kScsiMaxDataBytes / block));
  store_be<std::uint32_t>(data, 8, kOptimalBytes / block);
  if (spec.read_only) return data;
  store_be<std::uint32_t>(data, 16, static_cast<std::uint32_t>(kScsiMaxZeroBytes / block));
  store_be<std::uint32_t>(data, 20, kScsiMaxUnmapRanges);
  store_be<std::uint32_t>(data, 24, kPhysicalBlock / block);
  store_be<std::uint64_t>(data, 32, kScsiMaxZeroBytes / block);
  return data;
}

std::optional<Bytes> vital_page(const ScsiLunSpec& spec, std::uint8_t page) {
  Bytes data;
  switch (page) {
    case 0x00:
      for (const std::uint8_t one : kVpdPages) data.push_back(std::byte{one});
      return data;
    case 0x80:
      put_text(data, spec.serial);
      return data;
    case 0x83:
      return identification(spec);
    case 0xb0:
      return block_limits(spec);
    case 0xb1:
      data.resize(60);
      data[1] = std::byte{1};  // it does not rotate
      return data;
    case 0xb2:
      // UNMAP and WRITE SAME(16) unmap, and what they unmap reads as zeros; thin provisioning.
      data.resize(4);
      if (!spec.read_only) data[1] = std::byte{0xc4};
      data[2] = std::byte{2};
      return data;
    default:
      return std::nullopt;
  }
}

ScsiResult inquiry(ScsiCommand& command, std::uint8_t type) {
  const std::uint8_t page = byte(command.cdb, 2);
  const auto allocation = load_be<std::uint16_t>(command.cdb, 3);
  const std::uint8_t flags = byte(command.cdb, 1);
  if ((flags & ~1) != 0) return check_condition(kInvalidFieldInCdb);
  if (flags == 0) {
    if (page != 0) return check_condition(kInvalidFieldInCdb);
    return answer(command, standard_inquiry(type), allocation);
  }
  if (command.unit == nullptr) return check_condition(kInvalidFieldInCdb);
  const std::optional<Bytes> content = vital_page(command.unit->spec, page);
  if (!content) return check_condition(kInvalidFieldInCdb);
  Bytes data{std::byte{type}, std::byte{page}, std::byte{0},
             static_cast<std::byte>(content->size())};
  data.insert(data.end(), content->begin(), content->end());
  return answer(command, data, allocation);
}

// ---- the others

ScsiResult request_sense(ScsiCommand& command, const Sense& sense) {
  const bool as_descriptors = (byte(command.cdb, 1) & 1) != 0;
  const auto fixed = fixed_sense(sense);
  const auto descriptors = descriptor_sense(sense);
  const Bytes data = as_descriptors ? Bytes(descriptors.begin(), descriptors.end())
                                    : Bytes(fixed.begin(), fixed.end());
  return answer(command, data, byte(command.cdb, 4));
}

ScsiResult report_luns(ScsiCommand& command) {
  const std::uint8_t select = byte(command.cdb, 2);
  const auto allocation = load_be<std::uint32_t>(command.cdb, 6);
  if (select > 2 || allocation < 16) return check_condition(kInvalidFieldInCdb);
  Bytes data(8);
  const auto add = [&data](std::uint8_t first, std::uint8_t second) {
    data.insert(data.end(), {std::byte{first}, std::byte{second}});
    data.resize(data.size() + 6);
  };
  if (select != 0) add(0xc1, 0x01);
  if (select != 1) {
    for (const auto& unit : *command.units) add(0, unit->spec.lun);
  }
  store_be<std::uint32_t>(data, 0, static_cast<std::uint32_t>(data.size() - 8));
  const ScsiResult result = answer(command, data, allocation);
  if (result.response != ScsiResponse::kOk) return result;
  for (const auto& unit : *command.units) unit->clear(kReportedLunsChanged);
  return result;
}

ScsiResult read_capacity10(ScsiCommand& command) {
  if (load_be<std::uint32_t>(command.cdb, 2) != 0) return check_condition(kInvalidFieldInCdb);
  Bytes data(8);
  const std::uint64_t last = command.unit->blocks() - 1;
  store_be<std::uint32_t>(data, 0,
                          static_cast<std::uint32_t>(std::min<std::uint64_t>(last, UINT32_MAX)));
  store_be<std::uint32_t>(data, 4, command.unit->spec.block_size);
  return answer(command, data, data.size());
}

ScsiResult read_capacity16(ScsiCommand& command) {
  Bytes data(32);
  const ScsiLunSpec& spec = command.unit->spec;
  store_be<std::uint64_t>(data, 0, command.unit->blocks() - 1);
  store_be<std::uint32_t>(data, 8, spec.block_size);
  data[13] = static_cast<std::byte>(std::countr_zero(kPhysicalBlock / spec.block_size));
  if (!spec.read_only) data[14] = std::byte{0xc0};  // LBPME, LBPRZ
  return answer(command, data, load_be<std::uint32_t>(command.cdb, 10));
}

// Pages of MODE SENSE (SPC-4, 7.5; SBC-3, 6.4). changeable: which bits can be changed, none.
void put_mode_page(Bytes& data, std::uint8_t page, bool changeable) {
  const std::size_t at = data.size();
  const std::size_t length = page == 0x08 ? 20 : 12;
  data.resize(at + length);
  data[at] = std::byte{page};
  data[at + 1] = static_cast<std::byte>(length - 2);
  if (page == 0x08 && !changeable) data[at + 2] = std::byte{0x04};  // WCE: the cache is on
}

ScsiResult mode_sense(ScsiCommand& command, bool ten) {
  const ScsiLunSpec& spec = command.unit->spec;
  const std::uint8_t page = byte(command.cdb, 2) & 0x3f;
  const std::uint8_t control = byte(command.cdb, 2) >> 6;
  const std::uint8_t subpage = byte(command.cdb, 3);
  if (control == 3) return check_condition(kSavingNotSupported);
  if (subpage != 0 && subpage != 0xff) return check_condition(kInvalidFieldInCdb);
  if (page != 0x08 && page != 0x0a && page != 0x3f) return check_condition(kInvalidFieldInCdb);
  const bool with_block = (byte(command.cdb, 1) & 0x08) == 0;  // DBD
  const std::size_t header = ten ? 8 : 4;
  Bytes data(header + (with_block ? 8 : 0));
  const std::byte parameter{static_cast<std::uint8_t>((spec.read_only ? 0x80 : 0) | 0x10)};
  data[ten ? 3 : 2] = parameter;  // WP, DPOFUA
  if (with_block) {
    data[header - 1] = std::byte{8};
    store_be<std::uint32_t>(
        data, header,
        static_cast<std::uint32_t>(std::min<std::uint64_t>(command.unit->blocks(), UINT32_MAX)));
    store_be<std::uint32_t>(data, header + 4, spec.block_size);
  }
  for (const std::uint8_t one : {std::uint8_t{0x08}, std::uint8_t{0x0a}}) {
    if (page == one || page == 0x3f) put_mode_page(data, one, control == 1);
  }
  if (ten) {
    store_be<std::uint16_t>(data, 0, static_cast<std::uint16_t>(data.size() - 2));
  } else {
    data[0] = static_cast<std::byte>(data.size() - 1);
  }
  return answer(command, data, ten ? load_be<std::uint16_t>(command.cdb, 7) : byte(command.cdb, 4));
}

// A number that this target has no unit of (SPC-4, 6.6.1, 6.33, 6.39).
ScsiResult execute_without_unit(ScsiCommand& command) {
  switch (byte(command.cdb, 0)) {
    case kInquiry:
      return inquiry(command, kNoSuchUnit);
    case kReportLuns:
      return report_luns(command);
    case kRequestSense:
      return request_sense(command, kLunNotSupported);
    default:
      return check_condition(kLunNotSupported);
  }
}

}  // namespace

std::optional<Sense> LogicalUnit::take_attention() {
  const std::lock_guard lock(mutex_);
  if (attentions_.empty()) return std::nullopt;
  const Sense first = attentions_.front();
  attentions_.erase(attentions_.begin());
  return first;
}

void LogicalUnit::establish(const Sense& attention) {
  const std::lock_guard lock(mutex_);
  if (attention == kPowerOn) attentions_.clear();
  if (std::ranges::find(attentions_, attention) == attentions_.end()) {
    attentions_.push_back(attention);
  }
}

void LogicalUnit::clear(const Sense& attention) {
  const std::lock_guard lock(mutex_);
  std::erase(attentions_, attention);
}

std::vector<Sense> LogicalUnit::attentions() const {
  const std::lock_guard lock(mutex_);
  return attentions_;
}

ScsiResult execute_well_known(ScsiCommand& command) {
  switch (byte(command.cdb, 0)) {
    case kInquiry:
      return inquiry(command, kWellKnownUnit);
    case kReportLuns:
      return report_luns(command);
    case kRequestSense:
      return request_sense(command, kNoSense);
    case kTestUnitReady:
      return {};
    default:
      return check_condition(kInvalidOpcode);
  }
}

ScsiResult execute(ScsiCommand& command) {
  if (command.unit == nullptr) return execute_without_unit(command);
  const std::uint8_t opcode = byte(command.cdb, 0);
  if (opcode == kInquiry) return inquiry(command, 0);
  if (opcode == kReportLuns) return report_luns(command);
  const std::optional<Sense> attention = command.unit->take_attention();
  if (opcode == kRequestSense) return request_sense(command, attention.value_or(kNoSense));
  if (attention) return check_condition(*attention);
  switch (opcode) {
    case kTestUnitReady:
      return {};
    case kModeSense6:
      return mode_sense(command, false);
    case kModeSense10:
      return mode_sense(command, true);
    case kReadCapacity10:
      return read_capacity10(command);
    case kServiceActionIn16:
      if ((byte(command.cdb, 1) & 0x1f) != kReadCapacity16) {
        return check_condition(kInvalidFieldInCdb);
      }
      return read_capacity16(command);
    default:
      return execute_on_blocks(command).value_or(check_condition(kInvalidOpcode));
  }
}

}  // namespace kvitest
