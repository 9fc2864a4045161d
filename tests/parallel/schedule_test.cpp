// The instruction list of a step: what must come before what.
#include <doctest/doctest.h>

#include <map>

#include "src/parallel/schedule.h"

namespace traincu::test {

TEST_SUITE("schedule") {
    TEST_CASE("schedule: every part goes forward and backward once per micro-batch, in order, with its weights held") {
        for (int parts : {3, 6})
            for (int micro_batches : {1, 4})
                for (bool recompute : {false, true}) {
                    auto list = training_schedule(parts, micro_batches, recompute);
                    std::map<std::pair<int, int>, int> forward_at, input_at, weight_at, commit_at;
                    std::vector<int> held(static_cast<size_t>(parts));
                    int recomputed = 0, last_commits = 0, at = 0;
                    for (const Instruction& i : list) {
                        at++;
                        CAPTURE(to_string(i));
                        const std::pair<int, int> key{i.micro_batch, i.part};
                        const size_t part = static_cast<size_t>(i.part);
                        switch (i.op) {
                            case Op::acquire:
                                held[part]++;
                                break;
                            case Op::fold:
                                FAIL("one worker has nobody to fold with");
                                break;
                            case Op::release:
                                CHECK(--held[part] >= 0);
                                break;
                            case Op::forward:
                                CHECK(held[part] > 0);
                                CHECK(forward_at.emplace(key, at).second);
                                if (i.part > 0) CHECK(forward_at.count({i.micro_batch, i.part - 1}) == 1);
                                break;
                            case Op::recompute:
                                recomputed++;
                                CHECK(held[part] > 0);
                                CHECK(input_at.count(key) == 0);
                                break;
                            case Op::backward_input:
                                CHECK(held[part] > 0);
                                CHECK(forward_at.count({i.micro_batch, parts - 1}) == 1);
                                if (i.part + 1 < parts)
                                    CHECK(weight_at.count({i.micro_batch, i.part + 1}) == 1);  // its gradient buffers are shared
                                CHECK(input_at.emplace(key, at).second);
                                break;
                            case Op::backward_weight:
                                CHECK(input_at.count(key) == 1);
                                CHECK(weight_at.emplace(key, at).second);
                                break;
                            case Op::commit:
                                CHECK(weight_at.count(key) == 1);
                                CHECK(commit_at.emplace(key, at).second);
                                CHECK(i.last == (i.micro_batch == micro_batches - 1));
                                last_commits += i.last;
                                break;
                            case Op::optimizer:
                                CHECK(at == static_cast<int>(list.size()));
                                break;
                            case Op::load:
                            case Op::prefetch:
                                break;
                        }
                    }
                    for (int h : held) CHECK(h == 0);
                    const size_t all = static_cast<size_t>(parts * micro_batches);
                    CHECK(forward_at.size() == all);
                    CHECK(weight_at.size() == all);
                    CHECK(commit_at.size() == all);
                    CHECK(last_commits == parts);
                    CHECK(recomputed == (recompute ? (parts - 2) * micro_batches : 0));
                    CHECK(list.back().op == Op::optimizer);
                }
    }

    TEST_CASE("schedule: each worker's share ends with commits that are its last, and is folded") {
        int folds = 0, micro_batch = 0, last_commits = 0;
        for (const Instruction& i : training_schedule(3, 8, false, 4)) {
            if (i.op == Op::forward) micro_batch = i.micro_batch;
            CHECK((i.op == Op::fold || i.op == Op::optimizer || micro_batch < 2 * (folds + 1)));
            if (i.op == Op::commit) {
                CHECK(i.last == (i.micro_batch % 2 == 1));
                last_commits += i.last;
            }
            if (i.op != Op::fold) continue;
            CHECK(i.worker == folds++);
            CHECK(micro_batch == 2 * i.worker + 1);
            CHECK(last_commits == 3 * folds);
        }
        CHECK(folds == 4);
    }

    TEST_CASE("schedule: evaluation goes forward only") {
        for (const Instruction& i : evaluation_schedule(5))
            CHECK((i.op == Op::load || i.op == Op::acquire || i.op == Op::release || i.op == Op::prefetch || i.op == Op::forward));
    }

}  // TEST_SUITE
}  // namespace traincu::test
