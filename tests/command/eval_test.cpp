// ./train eval on several data sets and on questions; questions as a person makes them, and in training.
#include "src/command/choice_scorer.h"
#include "tests/support/cli.h"

#include <cmath>

namespace traincu::test {

namespace {

// Questions about the corpus of make_corpus: the right ending is its own text.
void make_questions(const TempDir& folder, int count = 24) {
    std::string lines;
    for (int i = 0; i < count; i++) {
        nlohmann::json line = {{"ctx", "In the beginning was the"},
                               {"endings", {"number " + std::to_string(i), "qqzz xx" + std::to_string(i)}},
                               {"label", i % 3 == 0 ? 1 : 0}};
        if (i % 3 == 0) std::swap(line["endings"][0], line["endings"][1]);
        lines += line.dump() + "\n";
    }
    write_file(folder / "questions.jsonl", lines);
}

std::vector<nlohmann::json> log_of(const TempDir& folder, const std::string& run) {
    std::vector<nlohmann::json> records;
    std::string line;
    for (std::stringstream lines(read_file(folder / (run + "/log.jsonl"))); std::getline(lines, line);)
        records.push_back(nlohmann::json::parse(line));
    return records;
}

}  // namespace

TEST_SUITE("choices") {
    TEST_CASE("judge: least sum, least mean, ties, what is not a number") {
        auto question = [](int64_t label, std::vector<size_t> lengths) {
            ChoiceExample e{label, {1}, {}};
            for (size_t n : lengths) e.completions.emplace_back(n, 2);
            return e;
        };
        const double nan = std::nan(""), inf = INFINITY;
        struct Case {
            ChoiceExample example;
            std::vector<double> losses;
            int right_by_sum, right_by_mean;
        };
        const Case cases[] = {
            {question(0, {1, 4}), {2, 4}, 1, 0},     {question(1, {1, 4}), {2, 4}, 0, 1},     {question(0, {2, 2}), {3, 3}, 1, 1},
            {question(1, {2, 2}), {3, 3}, 0, 0},  // the first of equals
            {question(0, {1, 1}), {nan, inf}, 0, 0}, {question(1, {1, 1}), {nan, inf}, 0, 0}, {question(2, {3, 3, 3}), {nan, 9, 8}, 1, 1},
        };
        std::vector<ChoiceExample> examples;
        std::vector<double> losses;
        for (const Case& c : cases) {
            CAPTURE(examples.size());
            const ChoiceScore one = judge({&c.example, 1}, c.losses);
            CHECK(one.examples == 1);
            CHECK(one.right_by_sum == c.right_by_sum);
            CHECK(one.right_by_mean == c.right_by_mean);
            examples.push_back(c.example), losses.insert(losses.end(), c.losses.begin(), c.losses.end());
        }
        const ChoiceScore all = judge(examples, losses);
        CHECK(all.examples == 7);
        CHECK(all.acc() == 3.0 / 7);
        CHECK(all.acc_norm() == 3.0 / 7);
        // the standard error of the mean of 0 and 1, from its definition
        ChoiceScore s{10, 3, 4};
        double squares = 0;
        for (int i = 0; i < 10; i++) squares += std::pow((i < 3) - 0.3, 2);
        CHECK(s.standard_error(s.acc()) == doctest::Approx(std::sqrt(squares / 9) / std::sqrt(10)));
        CHECK(ChoiceScore{1, 1, 1}.standard_error(1) == 0);
    }
}

TEST_SUITE("command line") {
    TEST_CASE("cli: questions to a set, scored by eval and in training") {
        TempDir f;
        make_corpus(f);
        make_questions(f);
        Result made = run(f, "tokenize --multiple-choice questions.jsonl --out set.bin");
        REQUIRE(made.code == 0);
        CHECK(made.says("24, of 2 completions"));
        CHECK(run(f, "inspect set.bin").says("24, of 2 completions"));
        REQUIRE(run(f, tiny_run + "--out run --max-steps 120 --lr 3e-3 --val-every 60 --hellaswag set.bin").code == 0);
        std::vector<double> logged;
        for (const auto& record : log_of(f, "run"))
            if (record.contains("val_loss")) logged.push_back(record.at("hellaswag"));
        REQUIRE(logged.size() == 3);
        CHECK(logged[2] == 1);  // it has read the corpus, and qqzz is not in it

        Result eval = run(f, "eval --model run --hellaswag set.bin --choices again=set.bin --json -");
        REQUIRE(eval.code == 0);
        const auto json = nlohmann::json::parse(eval.out);
        CHECK(json["data"].empty());
        CHECK(json["choices"][0]["name"] == "hellaswag");
        CHECK(json["choices"][1]["name"] == "again");
        CHECK(json["choices"][0]["examples"] == 24);
        CHECK(json["choices"][0]["acc_norm"] == logged[2]);
        CHECK(json["choices"][0]["acc"] == 1);
        CHECK(json["choices"][0]["acc_stderr"] == 0);
        CHECK(run(f, "eval --model run --hellaswag set.bin --max-examples 5").says(" 5   1.0000 +- 0.0000   1.0000 +- 0.0000"));

        REQUIRE(run(f, tiny_run + "--out few --max-steps 1 --hellaswag set.bin --hellaswag-examples 5").code == 0);
        const double few = log_of(f, "few")[0].at("hellaswag");  // before training: a share of five
        CHECK(std::fabs(few * 5 - std::round(few * 5)) < 1e-12);
        CHECK(run(f, "report few --save-curve few.csv").code == 0);
        CHECK(read_file(f / "few.csv").find("grad_norm,hellaswag\n0,") != std::string::npos);
    }

    TEST_CASE("cli: eval on several sets by name") {
        TempDir f;
        make_corpus(f);
        REQUIRE(run(f, tiny_run + "--out run --max-steps 3").code == 0);
        REQUIRE(
            run(f, "eval --model run --data val=text_val_000000.bin --data text_train_000000.bin --max-tokens 2000 --json all.json").code ==
            0);
        const auto json = nlohmann::json::parse(read_file(f / "all.json"));
        REQUIRE(json["data"].size() == 2);
        CHECK(json["model"] == "run");
        CHECK(json["data"][0]["name"] == "val");
        CHECK(json["data"][1]["name"] == "text_train_000000.bin");
        // each alone gives the same figures, in the form for one set
        Result one = run(f, "eval --model run --data text_val_000000.bin --max-tokens 2000");
        CHECK(one.code == 0);
        const double loss = json["data"][0]["loss"];
        CHECK(one.says(format("loss            %.5f nats per token", loss)));
        CHECK(one.says(format("%.5f bits per byte", json["data"][0]["bits_per_byte"].get<double>())));
        CHECK(json["data"][0]["perplexity"] == doctest::Approx(std::exp(loss)));
        CHECK(json["data"][0]["loss"] != json["data"][1]["loss"]);
        Result table = run(f, "eval --model run --data val=text_val_000000.bin --max-tokens 2000");
        CHECK(table.says("bits/byte"));
        CHECK(table.says(format("%.5f", loss)));
        // a file whose name has a '=' is a file
        fs::copy(f / "text_val_000000.bin", f / "a=b.bin");
        CHECK(run(f, "eval --model run --data a=b.bin --max-tokens 2000").out == one.out);
    }

    TEST_CASE("cli: mistakes with several sets and with questions") {
        TempDir f;
        make_corpus(f);
        make_questions(f, 3);
        REQUIRE(run(f, "tokenize --multiple-choice questions.jsonl --out set.bin").code == 0);
        REQUIRE(run(f, tiny_run + "--out run --max-steps 1").code == 0);
        write_file(f / "no_label.jsonl", "\n{\"ctx\": \"a\", \"endings\": [\"b\", \"c\"]}\n");
        write_file(f / "blank.jsonl", "\n \n");
        const std::string train = tiny_run + "--out r1 --max-steps 1 ";
        struct Mistake {
            std::string arguments;
            int code;
            const char* says;
        };
        const Mistake mistakes[] = {
            {"eval --model run", 2, "nothing to evaluate on"},
            {"eval --model run --data a=text_val_000000.bin --data a=text_train_000000.bin", 2, "two sets are called 'a'"},
            {"eval --model run --choices set.bin --choices set.bin", 2, "two sets are called 'set.bin'"},
            {"eval --model run --data a=nothing.bin", 3, "'nothing.bin'"},
            {"eval --model run --data set.bin", 3, "is a multiple-choice set"},
            {"eval --model run --hellaswag text_val_000000.bin", 3, "is not a multiple-choice set"},
            {"eval --model run --hellaswag missing.bin", 3, "missing.bin"},
            {"eval --model run --hellaswag set.bin --seq-len 4", 3, "example 0 has a completion of"},
            {"eval --model run --hellaswag set.bin --json no/folder.json", 8, "no/folder.json"},
            {train + "--hellaswag missing.bin", 3, "missing.bin"},
            {"--preset tiny --data text_train_000000.bin --out r1 --hellaswag set.bin", 2, "there is none without --val-data"},
            {"tokenize --multiple-choice questions.jsonl --out set.bin", 2, "exists already"},
            {"tokenize --multiple-choice missing.jsonl --out other.bin", 3, "missing.jsonl"},
            {"tokenize --multiple-choice no_label.jsonl --out other.bin", 3, "no_label.jsonl, line 2: no label"},
            {"tokenize --multiple-choice blank.jsonl --out other.bin", 3, "holds no questions"},
            {"tokenize --multiple-choice questions.jsonl --out no/folder.bin", 8, "no/folder.bin"},
        };
        for (const Mistake& m : mistakes) {
            CAPTURE(m.arguments);
            Result r = run(f, m.arguments);
            CAPTURE(r.err);
            CHECK(r.code == m.code);
            CHECK(r.says(m.says));
            CHECK(!r.verdict()["hint"].get<std::string>().empty());
            CHECK(!fs::exists(f / "other.bin"));
        }
        CHECK(run(f, "tokenize --multiple-choice questions.jsonl --out set.bin --force").code == 0);
        CHECK(run(f, "tokenize --multiple-choice FILE --help").says("endings"));
    }
}

}  // namespace traincu::test
