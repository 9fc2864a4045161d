// TensorBoard's event files: the curves of a run while it trains, for people who have TensorBoard open all day. `tensorboard --logdir runs`
// finds them in RUN/tensorboard.
//
// A file is a sequence of records, each one event in TFRecord framing (TensorFlow: lib/io/record_writer.h), all numbers little-endian:
//
//   uint64 length | uint32 masked crc of those 8 bytes | the event, `length` bytes | uint32 masked crc of the event
//   masked crc = (crc32c rotated right by 15) + 0xa282ead8, so that a checksum of bytes that hold checksums stays a good one
//
// An event is a protobuf message (TensorFlow: util/event.proto, framework/summary.proto, framework/tensor.proto). In protobuf a field is a
// key, number << 3 | wire type, and its value; wire type 0 is a varint, 1 eight bytes, 2 a length and that many bytes, 5 four bytes. These
// are used:
//
//   Event            1 double wall_time (seconds since 1970)   2 int64 step   and one of
//                    3 string file_version   5 Summary summary   7 SessionLog session_log
//   Summary          1 Value, repeated
//   Value            1 string tag   2 float simple_value   8 TensorProto tensor   9 SummaryMetadata metadata
//   TensorProto      1 enum dtype (7: string)   2 TensorShapeProto shape (empty: one value)   8 bytes string_val
//   SummaryMetadata  1 PluginData { 1 string plugin_name ("text") }
//   SessionLog       1 enum status (1: start)
//
// A resumed run cannot take back what an older file says about steps that are done again. So each file begins with a session start at its
// first step: viewers then forget what older files hold from that step on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace traincu {

struct StepRecord;
struct ValidationRecord;
struct RunCurves;

uint32_t crc32c(const void* data, size_t bytes);  // Castagnoli's polynomial, as iSCSI and TFRecord use it

// One event file. Losing a record of it never stops a training run: a full disk costs one warning on stderr and a count.
class EventFile {
public:
    // A new file in `directory` (made if it is missing), named so that it is read after those that are there. What they hold from
    // `first_step` on is no longer valid. Throws Error(io) where it cannot be opened: that is before training.
    EventFile(const std::string& directory, int64_t first_step, double wall_time);
    ~EventFile();
    EventFile(const EventFile&) = delete;
    EventFile& operator=(const EventFile&) = delete;

    void step(const StepRecord& record, double wall_time);              // loss/train, lr, grad_norm, speed/tok_per_s, speed/mfu
    void validation(const ValidationRecord& record, double wall_time);  // loss/val, val/bits_per_byte, val/hellaswag
    void text(const std::string& tag, int64_t step, const std::string& text, double wall_time);  // shown as it is, not as Markdown

    const std::string& path() const { return path_; }
    int64_t warnings() const { return warnings_; }  // records that could not be written

private:
    void write_event(const std::string& content, int64_t step, double wall_time);

    std::string path_;
    int file_ = -1;
    int64_t size_ = 0;  // of the whole records
    int64_t warnings_ = 0;
};

// A log that was read back, as one event file in `directory`. began: when the run did, in seconds since 1970. Error(io), and then no file,
// where it cannot be written whole.
void write_events(const RunCurves& run, const std::string& directory, double began);

}  // namespace traincu
