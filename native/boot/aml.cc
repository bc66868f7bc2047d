#include "native/boot/aml.h"

#include <cctype>
#include <limits>
#include <stdexcept>
#include <string>

namespace kvitest::aml {
namespace {

constexpr std::uint8_t kZeroOp = 0x00;
constexpr std::uint8_t kOneOp = 0x01;
constexpr std::uint8_t kNameOp = 0x08;
constexpr std::uint8_t kBytePrefix = 0x0a;
constexpr std::uint8_t kWordPrefix = 0x0b;
constexpr std::uint8_t kDWordPrefix = 0x0c;
constexpr std::uint8_t kStringPrefix = 0x0d;
constexpr std::uint8_t kQWordPrefix = 0x0e;
constexpr std::uint8_t kScopeOp = 0x10;
constexpr std::uint8_t kBufferOp = 0x11;
constexpr std::uint8_t kPackageOp = 0x12;
constexpr std::uint8_t kMethodOp = 0x14;
constexpr std::uint8_t kDualNamePrefix = 0x2e;
constexpr std::uint8_t kMultiNamePrefix = 0x2f;
constexpr std::uint8_t kExtOpPrefix = 0x5b;
constexpr std::uint8_t kLocal0Op = 0x60;
constexpr std::uint8_t kArg0Op = 0x68;
constexpr std::uint8_t kStoreOp = 0x70;
constexpr std::uint8_t kAndOp = 0x7b;
constexpr std::uint8_t kRegionOp = 0x80;
constexpr std::uint8_t kFieldOp = 0x81;
constexpr std::uint8_t kDeviceOp = 0x82;
constexpr std::uint8_t kNotifyOp = 0x86;
constexpr std::uint8_t kLEqualOp = 0x93;
constexpr std::uint8_t kIfOp = 0xa0;
constexpr std::uint8_t kReturnOp = 0xa4;

void append(Bytes& to, const Bytes& from) {
  to.insert(to.end(), from.begin(), from.end());
}

void append_le(Bytes& to, std::uint64_t value, unsigned width) {
  for (unsigned i = 0; i < width; ++i) to.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
}

// PkgLength counts itself (ACPI 6.5, 20.2.4).
Bytes with_package_length(const Bytes& body) {
  Bytes out;
  if (body.size() + 1 < 0x40) {
    out.push_back(static_cast<std::uint8_t>(body.size() + 1));
  } else {
    unsigned extra = 1;
    while (body.size() + 1 + extra >= std::size_t{1} << (4 + 8 * extra)) ++extra;
    if (extra > 3) throw std::invalid_argument("AML package of more than 256 MiB");
    const std::size_t length = body.size() + 1 + extra;
    out.push_back(static_cast<std::uint8_t>(extra << 6 | (length & 0xf)));
    append_le(out, length >> 4, extra);
  }
  append(out, body);
  return out;
}

Bytes block(std::initializer_list<std::uint8_t> opcode, const Bytes& head,
            std::initializer_list<Bytes> terms) {
  Bytes body = head;
  append(body, concat(terms));
  Bytes out(opcode);
  append(out, with_package_length(body));
  return out;
}

void append_segment(Bytes& out, std::string_view segment) {
  if (segment.empty() || segment.size() > 4) {
    throw std::invalid_argument("AML name segment: " + std::string(segment));
  }
  for (std::size_t i = 0; i < 4; ++i) {
    const char c = i < segment.size() ? segment[i] : '_';
    const bool lead = (c >= 'A' && c <= 'Z') || c == '_';
    const bool digit = c >= '0' && c <= '9';
    if (!lead && (i == 0 || !digit)) {
      throw std::invalid_argument("AML name segment: " + std::string(segment));
    }
    out.push_back(static_cast<std::uint8_t>(c));
  }
}

std::uint64_t hex_digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<std::uint64_t>(c - '0');
  if (c >= 'A' && c <= 'F') return static_cast<std::uint64_t>(c - 'A' + 10);
  throw std::invalid_argument("EISA id");
}

Bytes buffer(const Bytes& content) {
  return block({kBufferOp}, integer(content.size()), {content});
}

// Word, DWord and QWord address space descriptors differ in tag and width only (ACPI 6.5, 6.4.3.5).
Bytes address_window(std::uint8_t tag, unsigned width, std::uint8_t resource_type,
                     std::uint8_t type_flags, std::uint64_t base, std::uint64_t length) {
  constexpr std::uint8_t kFixedMinMaxProducer = 0x0c;
  Bytes out{tag};
  append_le(out, 3 + 5 * width, 2);
  out.push_back(resource_type);
  out.push_back(kFixedMinMaxProducer);
  out.push_back(type_flags);
  append_le(out, 0, width);  // granularity
  append_le(out, base, width);
  append_le(out, base + length - 1, width);
  append_le(out, 0, width);  // translation
  append_le(out, length, width);
  return out;
}

constexpr std::uint8_t kWordTag = 0x88;
constexpr std::uint8_t kDWordTag = 0x87;
constexpr std::uint8_t kQWordTag = 0x8a;
constexpr std::uint8_t kTypeMemory = 0;
constexpr std::uint8_t kTypeIo = 1;
constexpr std::uint8_t kTypeBus = 2;
constexpr std::uint8_t kReadWrite = 1;
constexpr std::uint8_t kEntireRange = 3;

}  // namespace

Bytes concat(std::initializer_list<Bytes> parts) {
  Bytes out;
  for (const Bytes& part : parts) append(out, part);
  return out;
}

Bytes integer(std::uint64_t value) {
  if (value == 0) return {kZeroOp};
  if (value == 1) return {kOneOp};
  Bytes out;
  if (value <= 0xff) {
    out.push_back(kBytePrefix);
    append_le(out, value, 1);
  } else if (value <= 0xffff) {
    out.push_back(kWordPrefix);
    append_le(out, value, 2);
  } else if (value <= 0xffff'ffff) {
    out.push_back(kDWordPrefix);
    append_le(out, value, 4);
  } else {
    out.push_back(kQWordPrefix);
    append_le(out, value, 8);
  }
  return out;
}

Bytes string(std::string_view text) {
  Bytes out{kStringPrefix};
  for (const char c : text) {
    if (c <= 0) throw std::invalid_argument("AML strings are ASCII");
    out.push_back(static_cast<std::uint8_t>(c));
  }
  out.push_back(0);
  return out;
}

Bytes eisa_id(std::string_view id) {
  if (id.size() != 7) throw std::invalid_argument("EISA id: " + std::string(id));
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    if (id[i] < 'A' || id[i] > 'Z') throw std::invalid_argument("EISA id: " + std::string(id));
    value = value << 5 | static_cast<std::uint64_t>(id[i] - 'A' + 1);
  }
  for (std::size_t i = 3; i < 7; ++i) value = value << 4 | hex_digit(id[i]);
  // The id is stored big-endian in a little-endian integer.
  return integer((value & 0xff) << 24 | (value >> 8 & 0xff) << 16 | (value >> 16 & 0xff) << 8 |
                 value >> 24);
}

Bytes package(const std::vector<Bytes>& elements) {
  if (elements.size() > 255) throw std::invalid_argument("AML package of more than 255 elements");
  Bytes body{static_cast<std::uint8_t>(elements.size())};
  for (const Bytes& element : elements) append(body, element);
  Bytes out{kPackageOp};
  append(out, with_package_length(body));
  return out;
}

Bytes name_path(std::string_view path) {
  Bytes out;
  if (path.starts_with('\\')) {
    out.push_back('\\');
    path.remove_prefix(1);
  }
  Bytes segments;
  unsigned count = 0;
  for (;;) {
    const std::size_t dot = path.find('.');
    append_segment(segments, path.substr(0, dot));
    ++count;
    if (dot == std::string_view::npos) break;
    path.remove_prefix(dot + 1);
  }
  if (count == 2) {
    out.push_back(kDualNamePrefix);
  } else if (count > 2) {
    out.push_back(kMultiNamePrefix);
    out.push_back(static_cast<std::uint8_t>(count));
  }
  append(out, segments);
  return out;
}

Bytes name(std::string_view path, const Bytes& value) {
  return concat({{kNameOp}, name_path(path), value});
}

Bytes scope(std::string_view path, std::initializer_list<Bytes> terms) {
  return block({kScopeOp}, name_path(path), terms);
}

Bytes device(std::string_view path, std::initializer_list<Bytes> terms) {
  return block({kExtOpPrefix, kDeviceOp}, name_path(path), terms);
}

Bytes method(std::string_view path, unsigned arguments, std::initializer_list<Bytes> terms) {
  constexpr std::uint8_t kSerialized = 1 << 3;
  if (arguments > 7) throw std::invalid_argument("an AML method has at most 7 arguments");
  Bytes head = name_path(path);
  head.push_back(static_cast<std::uint8_t>(arguments | kSerialized));
  return block({kMethodOp}, head, terms);
}

Bytes argument(unsigned index) {
  if (index > 6) throw std::invalid_argument("AML arguments are Arg0 to Arg6");
  return {static_cast<std::uint8_t>(kArg0Op + index)};
}

Bytes if_equal(const Bytes& left, const Bytes& right, std::initializer_list<Bytes> terms) {
  return block({kIfOp}, concat({{kLEqualOp}, left, right}), terms);
}

Bytes notify(std::string_view path, std::uint64_t value) {
  return concat({{kNotifyOp}, name_path(path), integer(value)});
}

Bytes local(unsigned index) {
  if (index > 7) throw std::invalid_argument("AML locals are Local0 to Local7");
  return {static_cast<std::uint8_t>(kLocal0Op + index)};
}

Bytes store(const Bytes& value, const Bytes& target) {
  return concat({{kStoreOp}, value, target});
}

Bytes return_value(const Bytes& value) {
  return concat({{kReturnOp}, value});
}

Bytes if_any_bit(const Bytes& value, std::uint64_t bits, std::initializer_list<Bytes> terms) {
  const Bytes nowhere = {kZeroOp};
  return block({kIfOp}, concat({{kAndOp}, value, integer(bits), nowhere}), terms);
}

Bytes port_fields(std::string_view region, std::uint16_t port,
                  std::initializer_list<std::string_view> names) {
  constexpr std::uint8_t kSystemIo = 1;
  constexpr std::uint8_t kDWordAccess = 3;
  constexpr std::uint8_t kWriteAsZeros = 2 << 5;
  constexpr unsigned kBits = 32;
  Bytes out = concat({{kExtOpPrefix, kRegionOp},
                      name_path(region),
                      {kSystemIo},
                      integer(port),
                      integer(names.size() * kBits / 8)});
  Bytes body = name_path(region);
  body.push_back(kDWordAccess | kWriteAsZeros);
  for (const std::string_view name : names) {
    append(body, name_path(name));
    body.push_back(kBits);  // a PkgLength of one byte
  }
  append(out, {kExtOpPrefix, kFieldOp});
  append(out, with_package_length(body));
  return out;
}

Bytes resources(std::initializer_list<Bytes> descriptors) {
  Bytes content = concat(descriptors);
  content.push_back(0x79);  // end tag
  content.push_back(0);     // checksum 0: not checked
  return buffer(content);
}

Bytes io_ports(std::uint16_t base, std::uint8_t length) {
  constexpr std::uint8_t kTag = 0x47;
  constexpr std::uint8_t kDecode16 = 1;
  Bytes out{kTag, kDecode16};
  append_le(out, base, 2);
  append_le(out, base, 2);
  out.push_back(1);  // alignment
  out.push_back(length);
  return out;
}

Bytes interrupt(std::uint32_t gsi, Trigger trigger) {
  constexpr std::uint8_t kTag = 0x89;
  constexpr std::uint8_t kConsumer = 1 << 0;
  constexpr std::uint8_t kEdge = 1 << 1;
  constexpr std::uint8_t kActiveLow = 1 << 2;
  constexpr std::uint8_t kShared = 1 << 3;
  Bytes out{kTag};
  append_le(out, 6, 2);
  std::uint8_t flags = kConsumer;
  if (trigger == Trigger::Edge) flags |= kEdge;
  if (trigger == Trigger::Pci) flags |= kActiveLow | kShared;
  out.push_back(flags);
  out.push_back(1);  // number of interrupts
  append_le(out, gsi, 4);
  return out;
}

// 32-bit fixed memory range descriptor (6.4.3.4).
Bytes memory32(std::uint32_t base, std::uint32_t length) {
  constexpr std::uint8_t kTag = 0x86;
  constexpr std::uint8_t kReadWrite = 1;
  Bytes out{kTag};
  append_le(out, 9, 2);
  out.push_back(kReadWrite);
  append_le(out, base, 4);
  append_le(out, length, 4);
  return out;
}

Bytes bus_window(std::uint16_t first, std::uint16_t last) {
  return address_window(kWordTag, 2, kTypeBus, 0, first,
                        static_cast<std::uint64_t>(last) - first + 1);
}

Bytes io_window(std::uint16_t base, std::uint16_t length) {
  return address_window(kWordTag, 2, kTypeIo, kEntireRange, base, length);
}

Bytes memory32_window(std::uint32_t base, std::uint32_t length) {
  return address_window(kDWordTag, 4, kTypeMemory, kReadWrite, base, length);
}

Bytes memory64_window(std::uint64_t base, std::uint64_t length) {
  return address_window(kQWordTag, 8, kTypeMemory, kReadWrite, base, length);
}

}  // namespace kvitest::aml
