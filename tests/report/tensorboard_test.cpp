// Event files read back by a decoder of the test's own: framing and checksums bit by bit, protobuf by its rules.
#include <algorithm>
#include <bit>
#include <cmath>
#include <csignal>
#include <cstring>
#include <map>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <unistd.h>

#include "src/base/error.h"
#include "src/report/log.h"
#include "src/report/tensorboard.h"
#include "tests/support/cli.h"
#include "tests/support/files.h"

using namespace traincu;
using namespace traincu::test;

namespace {

uint64_t little_endian(const std::string& bytes, size_t at, size_t count) {
    REQUIRE(at + count <= bytes.size());
    uint64_t value = 0;
    for (size_t i = 0; i < count; i++) value |= uint64_t{static_cast<unsigned char>(bytes[at + i])} << 8 * i;
    return value;
}

// Division by the polynomial, one bit at a time.
uint32_t slow_crc(const std::string& bytes) {
    uint32_t crc = 0xFFFFFFFF;
    for (unsigned char byte : bytes)
        for (int bit = 0; bit < 8; bit++) {
            const bool one = (crc ^ byte >> bit) & 1;
            crc = crc >> 1 ^ (one ? 0x82F63B78 : 0);
        }
    return ~crc;
}
uint32_t slow_masked_crc(const std::string& bytes) {
    const uint32_t crc = slow_crc(bytes);
    return (crc >> 15 | crc << 17) + 0xa282ead8;
}

// A protobuf message: every value of every field, numbers as their bits.
struct Message {
    std::multimap<int, uint64_t> numbers;
    std::multimap<int, std::string> strings;

    explicit Message(const std::string& bytes) {
        size_t at = 0;
        auto varint = [&] {
            uint64_t value = 0;
            for (int shift = 0;; shift += 7) {
                const uint64_t byte = little_endian(bytes, at++, 1);
                value |= (byte & 0x7F) << shift;
                if (byte < 0x80) return value;
                REQUIRE(shift < 63);
            }
        };
        while (at < bytes.size()) {
            const uint64_t key = varint();
            const int field = static_cast<int>(key >> 3);
            if ((key & 7) == 2) {
                const uint64_t length = varint();
                REQUIRE(at + length <= bytes.size());
                strings.insert({field, bytes.substr(at, length)});
                at += length;
            } else if ((key & 7) == 0) {
                numbers.insert({field, varint()});
            } else {
                REQUIRE(((key & 7) == 1 || (key & 7) == 5));
                const size_t size = (key & 7) == 1 ? 8 : 4;
                numbers.insert({field, little_endian(bytes, at, size)});
                at += size;
            }
        }
    }
    Message message(int field) const { return Message(text(field)); }
    std::string text(int field) const {
        REQUIRE(strings.count(field) == 1);
        return strings.find(field)->second;
    }
    uint64_t number(int field) const {
        REQUIRE(numbers.count(field) == 1);
        return numbers.find(field)->second;
    }
};

struct Event {
    double wall_time;
    int64_t step;
    Message message;
};

std::vector<Event> events_in(const std::string& file) {
    const std::string bytes = read_file(file);
    std::vector<Event> events;
    for (size_t at = 0; at < bytes.size();) {
        const uint64_t length = little_endian(bytes, at, 8);
        REQUIRE(length < bytes.size());
        CHECK(little_endian(bytes, at + 8, 4) == slow_masked_crc(bytes.substr(at, 8)));
        const std::string event = bytes.substr(at + 12, length);
        CHECK(little_endian(bytes, at + 12 + length, 4) == slow_masked_crc(event));
        at += 16 + length;
        Message message(event);
        events.push_back({std::bit_cast<double>(message.number(1)), static_cast<int64_t>(message.number(2)), message});
    }
    return events;
}

// The files of a folder as a viewer reads them: in the order of their names, each session start ending what was known from its step on.
struct Board {
    std::map<std::string, std::vector<std::pair<int64_t, float>>> scalars;
    std::map<std::string, std::vector<std::pair<int64_t, std::string>>> texts;
    std::vector<int64_t> session_starts;

    explicit Board(const std::string& folder) {
        std::vector<std::string> files;
        for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path().string());
        std::sort(files.begin(), files.end());
        for (const std::string& file : files) {
            const std::vector<Event> events = events_in(file);
            REQUIRE(events.size() >= 2);
            CHECK(events[0].message.text(3) == "brain.Event:2");
            CHECK(events[1].message.message(7).number(1) == 1);
            session_starts.push_back(events[1].step);
            auto forget = [&](auto& tags) {
                for (auto& [tag, points] : tags) std::erase_if(points, [&](auto& point) { return point.first >= events[1].step; });
            };
            forget(scalars), forget(texts);
            for (size_t i = 2; i < events.size(); i++) add(events[i]);
        }
    }
    void add(const Event& event) {
        CHECK(event.wall_time > 1.7e9);
        const Message summary = event.message.message(5);
        for (auto [value, end] = summary.strings.equal_range(1); value != end; ++value) {
            const Message m(value->second);
            if (m.numbers.count(2)) {
                scalars[m.text(1)].push_back({event.step, std::bit_cast<float>(static_cast<uint32_t>(m.number(2)))});
            } else {
                CHECK(m.message(9).message(1).text(1) == "text");
                CHECK(m.message(8).number(1) == 7);
                CHECK(m.message(8).text(2).empty());
                texts[m.text(1)].push_back({event.step, m.message(8).text(8)});
            }
        }
    }
};

StepRecord step_record(int64_t step, double loss) {
    StepRecord r;
    r.step = step, r.loss = loss, r.grad_norm = 0.5, r.lr = 1e-3, r.tok_per_s = 25412;
    return r;
}

// What log.jsonl says, by tag.
std::map<std::string, std::vector<std::pair<int64_t, float>>> scalars_of(const std::string& log) {
    const std::map<std::string, std::string> tags = {{"loss", "loss/train"},
                                                     {"val_loss", "loss/val"},
                                                     {"lr", "lr"},
                                                     {"grad_norm", "grad_norm"},
                                                     {"mfu", "speed/mfu"},
                                                     {"tok_per_s", "speed/tok_per_s"},
                                                     {"hellaswag", "val/hellaswag"},
                                                     {"val_bits_per_byte", "val/bits_per_byte"}};
    std::map<std::string, std::vector<std::pair<int64_t, float>>> scalars;
    std::string line;
    for (std::stringstream lines(read_file(log)); std::getline(lines, line);) {
        const auto record = nlohmann::json::parse(line);
        for (auto& [key, value] : record.items())
            if (auto tag = tags.find(key); tag != tags.end())
                scalars[tag->second].push_back({record["step"], value.is_null() ? NAN : value.get<float>()});
    }
    return scalars;
}

}  // namespace

TEST_SUITE("tensorboard") {
    TEST_CASE("tensorboard: crc32c of the vectors of RFC 3720 and of CRC catalogues") {
        auto crc = [](const std::string& bytes) { return crc32c(bytes.data(), bytes.size()); };
        std::string ascending(32, 0);
        for (size_t i = 0; i < 32; i++) ascending[i] = static_cast<char>(i);
        CHECK(crc("123456789") == 0xE3069283);
        CHECK(crc(std::string(32, '\0')) == 0x8A9136AA);
        CHECK(crc(std::string(32, '\xFF')) == 0x62A8AB43);
        CHECK(crc(ascending) == 0x46DD794E);
        CHECK(crc("") == 0);
    }

    TEST_CASE("tensorboard: what the log is told stands in the events, value for value") {
        TempDir folder;
        {
            RunLog log(folder / "log.jsonl", -1, true);
            log.validation({0, 5.5, -1, 0});
            for (int64_t s = 1; s <= 300; s++) {
                StepRecord r = step_record(s, 5.0 / static_cast<double>(s));
                if (s > 1) r.mfu = 0.41;
                log.step(r);
            }
            ValidationRecord v{300, 2.25, 1.125, 4096};
            v.hellaswag = 0.2875;
            log.validation(v);
            log.sample(300, "In the \"beginning\"\n\n  was\xFF a\x01 *word*\n");
            log.checkpoint(300, "step_0000000300");
            log.note(300, "remarkable");
            log.step(step_record(int64_t{1} << 40, std::nan("")));
            CHECK(log.warnings() == 0);
        }
        Board board(folder / "tensorboard");
        CHECK(board.session_starts == std::vector<int64_t>{0});
        REQUIRE(board.scalars.at("loss/train").size() == 301);
        CHECK(board.scalars.at("loss/train")[2] == std::pair<int64_t, float>{3, static_cast<float>(5.0 / 3)});
        CHECK(board.scalars.at("loss/train")[300].first == int64_t{1} << 40);
        CHECK(std::isnan(board.scalars.at("loss/train")[300].second));
        CHECK(board.scalars.at("speed/mfu").size() == 299);  // unknown in the first and the last
        board.scalars.at("loss/train").pop_back();
        auto wanted = scalars_of(folder / "log.jsonl");
        wanted.at("loss/train").pop_back();
        CHECK(board.scalars.size() == 8);
        CHECK(board.scalars == wanted);
        CHECK(board.texts.at("sample")[0].second == "    In the \"beginning\"\n    \n      was\xEF\xBF\xBD a\xEF\xBF\xBD *word*\n    ");
        CHECK(board.texts.at("note")[0] == std::pair<int64_t, std::string>{300, "    remarkable"});
        CHECK(board.texts.size() == 2);
    }

    TEST_CASE("tensorboard: resumed again and again within a second, each step shows once") {
        TempDir folder;
        { RunLog(folder / "log.jsonl", -1, true).step(step_record(1, 1)); }
        for (int64_t from = 1; from <= 12; from++) {
            RunLog log(folder / "log.jsonl", from, true);
            for (int64_t s = from + 1; s <= from + 5; s++) log.step(step_record(s, static_cast<double>(from)));
            log.sample(from + 5, "text");
        }
        Board board(folder / "tensorboard");
        CHECK(board.session_starts.size() == 13);
        CHECK(std::is_sorted(board.session_starts.begin(), board.session_starts.end()));
        CHECK(board.scalars == scalars_of(folder / "log.jsonl"));
        REQUIRE(board.scalars.at("loss/train").size() == 17);
        CHECK(board.scalars.at("loss/train")[2] == std::pair<int64_t, float>{3, 2});
        CHECK(board.texts.at("sample").size() == 1);
        {
            RunLog anew(folder / "log.jsonl", -1, true);  // nothing of the older run is left
            anew.step(step_record(1, 7));
        }
        Board fresh(folder / "tensorboard");
        CHECK(fresh.scalars.at("loss/train") == std::vector<std::pair<int64_t, float>>{{1, 7}});
        CHECK(fresh.texts.at("sample").empty());
    }

    TEST_CASE("tensorboard: a full disk costs a warning, and no record that came before or comes after") {
        TempDir folder;
        auto handler = std::signal(SIGXFSZ, SIG_IGN);
        rlimit before;
        getrlimit(RLIMIT_FSIZE, &before);
        {
            EventFile events(folder / "tb", 0, 1.8e9);
            events.step(step_record(1, 1), 1.8e9);
            rlimit full = before;
            full.rlim_cur = static_cast<rlim_t>(fs::file_size(events.path())) + 20;
            setrlimit(RLIMIT_FSIZE, &full);
            events.step(step_record(2, 2), 1.8e9);
            events.step(step_record(3, 3), 1.8e9);
            setrlimit(RLIMIT_FSIZE, &before);
            CHECK(events.warnings() == 2);
            events.step(step_record(4, 4), 1.8e9);
            CHECK(events.warnings() == 2);
        }
        std::signal(SIGXFSZ, handler);
        CHECK(Board(folder / "tb").scalars.at("loss/train") == std::vector<std::pair<int64_t, float>>{{1, 1}, {4, 4}});
    }

    TEST_CASE("tensorboard: a folder that cannot hold events is refused before training") {
        TempDir folder;
        write_file(folder / "tensorboard", "a file");
        try {
            RunLog log(folder / "log.jsonl", -1, true);
            FAIL("opened");
        } catch (const Error& error) {
            CHECK(error.code() == ExitCode::io);
            CHECK(std::string(error.what()).find(folder / "tensorboard") != std::string::npos);
        }
    }

    TEST_CASE("tensorboard: a run that is killed and resumed shows the curves of its log") {
        TempDir folder;
        make_corpus(folder);
        const std::string command =
            tiny_run + "--tensorboard --max-steps 200 --checkpoint-every 20 --val-every 20 --sample-every 50 --out run ";
        CHECK(shell(folder, "\"$TRAIN\" " + command +
                                "& pid=$!; while ! grep -q '\"step\":35,' run/log.jsonl 2>/dev/null; do sleep 0.02; done; "
                                "kill -9 $pid; wait $pid")
                  .code == 137);
        REQUIRE(run(folder, command + "--resume auto").code == 0);
        Board board(folder / "run/tensorboard");
        CHECK(board.session_starts.size() == 2);
        CHECK(board.session_starts[1] > 0);
        CHECK(board.scalars == scalars_of(folder / "run/log.jsonl"));
        CHECK(board.scalars.at("loss/train").size() == 200);
        CHECK(board.scalars.at("loss/val").size() == 11);
        CHECK(board.texts.at("sample").size() == 4);
        CHECK(!fs::exists(folder / "run/log.jsonl.old"));
        REQUIRE(run(folder, tiny_run + "--max-steps 2 --out quiet").code == 0);
        CHECK(!fs::exists(folder / "quiet/tensorboard"));

        // finished runs can be shown too, again and again, each under its name
        for (int again = 0; again < 2; again++) REQUIRE(run(folder, "report run quiet --tensorboard shown --out page.html").code == 0);
        CHECK(Board(folder / "shown/run").scalars == board.scalars);
        CHECK(Board(folder / "shown/run").texts == board.texts);
        CHECK(Board(folder / "shown/quiet").scalars.at("loss/train").size() == 2);
        write_file(folder / "occupied", "a file");
        CHECK(run(folder, "report run --tensorboard occupied").code == 8);
    }
}
