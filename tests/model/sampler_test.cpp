// From logits to a token: what each option leaves in the draw, and how often each token comes.
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <vector>

#include "src/model/sampler.h"

namespace traincu::test {

TEST_SUITE("sampler") {
    // logits of probabilities 0.1, 0.4, 0.2, 0.3
    struct Draws {
        std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
        int32_t operator()(const SamplingOptions& options, double u) {
            return sample_token(Tensor(logits.data(), Dtype::f32, {static_cast<int64_t>(logits.size())}), options, u);
        }
        // Share of each token over an even grid of u.
        std::map<int32_t, double> shares(const SamplingOptions& options) {
            std::map<int32_t, double> share;
            constexpr int n = 10000;
            for (int i = 0; i < n; i++) share[(*this)(options, (i + 0.5) / n)] += 1.0 / n;
            return share;
        }
    };

    TEST_CASE("sampler: every token comes as often as its probability") {
        const double expected[] = {0.1, 0.4, 0.2, 0.3};
        auto share = Draws().shares({});
        REQUIRE(share.size() == 4);
        for (auto& [token, part] : share) CHECK(part == doctest::Approx(expected[token]).epsilon(1e-3));
        // temperature 1/2 squares the probabilities
        for (auto& [token, part] : Draws().shares({.temperature = 0.5}))
            CHECK(part == doctest::Approx(expected[token] * expected[token] / 0.30).epsilon(1e-2));
    }

    TEST_CASE("sampler: temperature 0, top-k and top-p keep the most probable") {
        for (double u : {0.0001, 0.5, 0.9999}) CHECK(Draws()({.temperature = 0}, u) == 1);
        auto two = Draws().shares({.top_k = 2});
        CHECK(two.size() == 2);
        CHECK(two[1] == doctest::Approx(4.0 / 7).epsilon(1e-3));
        CHECK(two[3] == doctest::Approx(3.0 / 7).epsilon(1e-3));
        CHECK(Draws().shares({.top_p = 0.39}).size() == 1);
        CHECK(Draws().shares({.top_p = 0.41}).size() == 2);
        CHECK(Draws().shares({.top_p = 0.71}).size() == 3);
    }

    TEST_CASE("sampler: ids that the tokenizer does not have are never drawn") {
        auto share = Draws().shares({.vocab_size = 3});
        CHECK(share.size() == 3);
        CHECK(share.count(3) == 0);
        CHECK(share[1] == doctest::Approx(4.0 / 7).epsilon(1e-3));
        CHECK(Draws()({.temperature = 0, .vocab_size = 1}, 0.5) == 0);
        CHECK(Draws().shares({.vocab_size = 99}).size() == 4);
    }
}

}  // namespace traincu::test
