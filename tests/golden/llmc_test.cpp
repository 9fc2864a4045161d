// A checkpoint in llm.c's format, trained on with llm.c's settings, follows the losses that llm.c itself printed (llmc/README.md).
#include "tests/support/cli.h"

#include <cmath>
#include <map>

namespace traincu::test {

TEST_SUITE("golden") {
    TEST_CASE("llm.c: forty steps from its checkpoint stay within 1e-4 of its own losses") {
        TempDir f;
        const std::string here = fs::absolute("tests/golden/llmc").string();
        Result r = run(f, "--model " + here + "/model.bin --data " + here + "/tokens.bin --val-data " + here +
                              "/val.bin --shuffle 0 -b 4 -t 64 -x 41 -l 1e-3 -k constant --beta1 0.9 --beta2 0.999 --adam-eps 1e-8 -c 0 "
                              "--grad-clip 0 --skip-zscore 0 "
                              "-v 10 --val-tokens 1280 --out run");
        CAPTURE(r.err);
        REQUIRE(r.code == 0);
        std::map<int, double> train, val;
        std::string line;
        for (std::stringstream lines(read_file(f / "run/log.jsonl")); std::getline(lines, line);) {
            auto record = nlohmann::json::parse(line);
            if (record.contains("loss")) train[record["step"].get<int>() - 1] = record["loss"];  // llm.c counts its steps from 0
            if (record.contains("val_loss")) val[record["step"].get<int>()] = record["val_loss"];
        }
        std::stringstream csv(read_file(here + "/losses.csv"));
        std::getline(csv, line);
        CHECK(line == "step,first_token,train_loss,val_loss");
        int compared = 0;
        while (std::getline(csv, line)) {
            CAPTURE(line);
            std::stringstream fields(line);
            std::string step, first_token, train_loss, val_loss;
            std::getline(fields, step, ','), std::getline(fields, first_token, ','), std::getline(fields, train_loss, ','),
                std::getline(fields, val_loss, ',');
            const int s = std::stoi(step);
            auto compare = [&](double ours, const std::string& theirs) {
                if (theirs.empty()) return;
                CHECK(std::fabs(ours - std::stod(theirs)) < 1e-4);
                compared++;
            };
            compare(train.at(s), train_loss);
            compare(val.count(s) ? val[s] : 0.0, val_loss);
        }
        CHECK(compared >= 45);
    }

}  // TEST_SUITE
}  // namespace traincu::test
