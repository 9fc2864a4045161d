#include "src/report/tensorboard.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "src/base/error.h"
#include "src/report/log.h"
#include "src/report/svg.h"

namespace traincu {

namespace {

// ---- protobuf: a message is the concatenation of its fields

enum WireType { kVarint = 0, kEightBytes = 1, kLengthDelimited = 2, kFourBytes = 5 };

std::string little_endian(uint64_t value, int bytes) {
    std::string out;
    for (int i = 0; i < bytes; i++) out += static_cast<char>(value >> 8 * i & 0xFF);
    return out;
}

std::string varint(uint64_t value) {
    std::string out;
    for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
    return out + static_cast<char>(value);
}

std::string key(int field, WireType type) { return varint(static_cast<uint64_t>(field << 3 | type)); }
std::string field(int number, uint64_t value) { return key(number, kVarint) + varint(value); }
std::string field(int number, double value) { return key(number, kEightBytes) + little_endian(std::bit_cast<uint64_t>(value), 8); }
std::string field(int number, float value) { return key(number, kFourBytes) + little_endian(std::bit_cast<uint32_t>(value), 4); }
std::string field(int number, const std::string& bytes) { return key(number, kLengthDelimited) + varint(bytes.size()) + bytes; }

// A Summary.Value with a number, as a field of Summary.
std::string scalar(const std::string& tag, double value) { return field(1, field(1, tag) + field(2, static_cast<float>(value))); }

// ---- TFRecord

uint32_t masked_crc(const std::string& bytes) {
    return std::rotr(crc32c(bytes.data(), bytes.size()), 15) + 0xa282ead8u;  // wraps around, as it should
}

std::string tf_record(const std::string& event) {
    const std::string length = little_endian(event.size(), 8);
    return length + little_endian(masked_crc(length), 4) + event + little_endian(masked_crc(event), 4);
}

// ---- the name: events.out.tfevents.SECONDS.HOST.PID

const std::string kPrefix = "events.out.tfevents.";

// Viewers read the files of a directory in the order of their names: seconds since 1970, and later than those that are there.
int64_t seconds_for_name(const std::string& directory, double wall_time) {
    int64_t seconds = static_cast<int64_t>(wall_time);
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
        const std::string name = entry.path().filename().string();
        if (name.rfind(kPrefix, 0) != 0) continue;
        const int64_t taken = std::strtoll(name.c_str() + kPrefix.size(), nullptr, 10);
        if (taken < 9'999'999'999) seconds = std::max(seconds, taken + 1);  // ten digits: as long as all others, so that it sorts
    }
    return seconds;
}

}  // namespace

uint32_t crc32c(const void* data, size_t bytes) {
    static const std::array<uint32_t, 256> table = [] {
        std::array<uint32_t, 256> t{};
        for (uint32_t i = 0; i < 256; i++) {
            t[i] = i;
            for (int bit = 0; bit < 8; bit++) t[i] = t[i] >> 1 ^ (t[i] & 1 ? 0x82F63B78u : 0);  // 0x1EDC6F41 with its bits reversed
        }
        return t;
    }();
    uint32_t crc = ~0u;
    for (size_t i = 0; i < bytes; i++) crc = crc >> 8 ^ table[(crc ^ static_cast<const unsigned char*>(data)[i]) & 0xFF];
    return ~crc;
}

EventFile::EventFile(const std::string& directory, int64_t first_step, double wall_time) {
    auto refuse = [&](const std::string& why) {
        throw Error(ExitCode::io, "no event file can be opened in " + directory + ": " + why,
                    "check that the folder can be written, or train without --tensorboard")
            .file(directory);
    };
    try {
        std::filesystem::create_directories(directory);
        char host[256] = "localhost";
        ::gethostname(host, sizeof host - 1);
        path_ =
            (std::filesystem::path(directory) /
             format("%s%010lld.%s.%d", kPrefix.c_str(), static_cast<long long>(seconds_for_name(directory, wall_time)), host, ::getpid()))
                .string();
    } catch (const std::filesystem::filesystem_error& error) {
        refuse(error.code().message());
    }
    file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
    if (file_ < 0) refuse(std::strerror(errno));
    write_event(field(3, std::string("brain.Event:2")), 0, wall_time);  // the format's version: session starts count
    write_event(field(7, field(1, uint64_t{1})), first_step, wall_time);
}

EventFile::~EventFile() {
    if (file_ >= 0) ::close(file_);
}

void EventFile::step(const StepRecord& r, double wall_time) {
    std::string summary = scalar("loss/train", r.loss) + scalar("lr", r.lr) + scalar("grad_norm", r.grad_norm);
    summary += scalar("speed/tok_per_s", r.tok_per_s);
    if (r.mfu >= 0) summary += scalar("speed/mfu", r.mfu);
    write_event(field(5, summary), r.step, wall_time);
}

void EventFile::validation(const ValidationRecord& r, double wall_time) {
    std::string summary = scalar("loss/val", r.val_loss);
    if (r.bits_per_byte >= 0) summary += scalar("val/bits_per_byte", r.bits_per_byte);
    if (r.hellaswag >= 0) summary += scalar("val/hellaswag", r.hellaswag);
    write_event(field(5, summary), r.step, wall_time);
}

void EventFile::text(const std::string& tag, int64_t step, const std::string& text, double wall_time) {
    // Markdown shows lines that are indented by four spaces as they are
    std::string block = "    ";
    for (char c : only_utf8(text)) block += c == '\n' ? "\n    " : std::string(1, c);
    const std::string tensor = field(1, uint64_t{7}) + field(2, std::string()) + field(8, block);
    const std::string metadata = field(1, field(1, std::string("text")));
    write_event(field(5, field(1, field(1, tag) + field(8, tensor) + field(9, metadata))), step, wall_time);
}

void EventFile::write_event(const std::string& content, int64_t step, double wall_time) {
    const std::string record = tf_record(field(1, wall_time) + field(2, static_cast<uint64_t>(step)) + content);
    ssize_t written;
    do written = ::write(file_, record.data(), record.size());
    while (written < 0 && errno == EINTR);
    if (written == static_cast<ssize_t>(record.size())) {
        size_ += written;
        return;
    }
    const std::string why = written < 0 ? std::strerror(errno) : "no space left";
    // Half a record would make all after it unreadable: it is taken back.
    if (written > 0 && ::ftruncate(file_, size_) != 0) ::close(file_), file_ = -1;
    if (warnings_++ == 0)
        std::fprintf(stderr, "warning: events %s: %s; training goes on, further losses are only counted\n", path_.c_str(), why.c_str());
}

void write_events(const RunCurves& run, const std::string& directory, double began) {
    EventFile events(directory, 0, began);
    auto at = [&](double seconds) { return began + (std::isfinite(seconds) ? seconds : 0); };
    for (const StepRecord& r : run.steps) events.step(r, at(r.time));
    for (const ValidationRecord& r : run.validations) events.validation(r, at(r.time));
    for (const auto& [step, text, time] : run.samples) events.text("sample", step, text, at(time));
    for (const auto& [step, text, time] : run.notes) events.text("note", step, text, at(time));
    if (events.warnings() == 0) return;
    std::filesystem::remove(events.path());
    throw Error(ExitCode::io, "the events cannot be written to " + directory, "check that there is space").file(events.path());
}

}  // namespace traincu
