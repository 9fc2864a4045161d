#include "src/command/attention_bias.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "src/base/dtype.h"
#include "src/checkpoint/safetensors.h"
#include "src/config/model_options.h"
#include "src/model/low_rank.h"
#include "src/model/transformer.h"

namespace traincu {

namespace {

// One tensor of a file that a user made.
class BiasFile {
public:
    BiasFile(const std::string& path, const char* name) : file_(path, ExitCode::usage), tensor_(file_.find(name)) {
        if (!tensor_)
            throw Error(ExitCode::usage, path + " has no tensor \"" + name + "\"",
                        std::string("store it under this name, as safetensors.numpy.save_file({\"") + name + "\": ...}, PATH) does")
                .file(path);
    }
    const std::vector<int64_t>& shape() const { return tensor_->shape; }
    [[noreturn]] void refuse(const std::string& what, const std::string& remedy) const {
        throw Error(ExitCode::usage, file_.path() + ": the tensor " + tensor_->name + " " + what, remedy).file(file_.path());
    }
    void read(int64_t first, int64_t count, float* out) const {
        file_.read_f32(*tensor_, first, count, out);
        for (int64_t i = 0; i < count; i++)
            if (!std::isfinite(out[i]))
                refuse(format("holds %f at element %lld", static_cast<double>(out[i]), static_cast<long long>(first + i)),
                       "all of its numbers must be finite, above the diagonal too, where they are free");
    }

private:
    SafetensorsFile file_;
    const StoredTensor* tensor_;
};

// How far left right^T of rank R is from the matrices, over all elements and over the causal ones.
struct Deviation {
    double squares = 0, causal_squares = 0, causal_energy = 0, energy = 0, largest = 0;
    int64_t causal = 0;

    void add(const std::vector<float>& stack, int64_t N, const LowRank& f, int64_t R) {
        const int64_t K = f.columns();
        for (int64_t row = 0; row < static_cast<int64_t>(stack.size()) / N; row++)
            for (int64_t j = 0; j < N; j++) {
                double sum = 0;
                for (int64_t r = 0; r < std::min(R, K); r++)
                    sum += static_cast<double>(f.left[static_cast<size_t>(row * K + r)]) *
                           static_cast<double>(f.right[static_cast<size_t>(j * K + r)]);
                const double a = static_cast<double>(stack[static_cast<size_t>(row * N + j)]), off = a - sum;
                squares += off * off, energy += a * a;
                if (j > row % N) continue;
                causal_squares += off * off, causal_energy += a * a, causal++;
                largest = std::max(largest, std::fabs(off));
            }
    }
};

// Element r of a row of K; zero beyond.
float column(const std::vector<float>& factors, int64_t row, int64_t K, int64_t r) {
    return r < K ? factors[static_cast<size_t>(row * K + r)] : 0.0f;
}

}  // namespace

FixedBias bias_of_matrix(const std::string& path, const ModelConfig& c, double share) {
    const BiasFile file(path, "bias");
    const int64_t P = c.max_seq_len, L = c.n_layer, NH = c.n_head, NKV = c.n_kv_head, group = NH / NKV;
    const std::vector<int64_t>& shape = file.shape();
    const size_t rank = shape.size();
    const bool fits = rank >= 2 && rank <= 4 && shape[rank - 1] == shape[rank - 2] && shape[rank - 1] >= P &&
                      (rank < 3 || shape[rank - 3] == NH) && (rank < 4 || shape[0] == L);
    if (!fits)
        file.refuse("has shape " + shape_text(shape),
                    format("the model needs (N, N), (%lld, N, N) or (%lld, %lld, N, N) with N of --max-seq-len %lld or more",
                           static_cast<long long>(NH), static_cast<long long>(L), static_cast<long long>(NH), static_cast<long long>(P)));
    const int64_t N = shape[rank - 1], layers = rank == 4 ? L : 1, groups = rank >= 3 ? NKV : 1, stacked = rank >= 3 ? group : 1;

    std::vector<LowRank> found;  // [layer][group]
    std::vector<float> stack(static_cast<size_t>(stacked * P * P));
    auto read_stack = [&](int64_t n) {  // the n-th group's matrices, one above the other
        for (int64_t row = 0; row < stacked * P; row++) file.read(((n * stacked + row / P) * N + row % P) * N, P, stack.data() + row * P);
    };
    int64_t R = 1;
    for (int64_t n = 0; n < layers * groups; n++) {
        read_stack(n);
        const int64_t most = std::min<int64_t>(c.head_size, 256);
        found.push_back(low_rank(stack.data(), stacked * P, P, most));
        int64_t columns = most, needed = found.back().rank_for(share);
        while (needed > columns && columns < 512 && columns < P)  // for the message
            columns *= 2, needed = low_rank(stack.data(), stacked * P, P, columns).rank_for(share);
        if (needed > most)
            throw Error(
                ExitCode::usage,
                format("%s: the bias needs %srank %lld for %g %% of its energy, more than the head size %lld", path.c_str(),
                       needed > columns ? "at least " : "", static_cast<long long>(needed), 100 * share,
                       static_cast<long long>(c.head_size)),
                "lower --attn-bias-energy, or make the free entries above the diagonal continue the pattern below it: a smooth matrix "
                "needs a lower rank")
                .file(path);
        R = std::max(R, needed);
    }

    FixedBias bias;
    bias.rank = R;
    Deviation off;
    double kept = 1;
    for (int64_t layer = 0; layer < layers; layer++) {
        FixedBias::Factors f{std::vector<float>(static_cast<size_t>(P * NH * R)), std::vector<float>(static_cast<size_t>(P * NKV * R))};
        for (int64_t g = 0; g < groups; g++) {
            const LowRank& one = found[static_cast<size_t>(layer * groups + g)];
            read_stack(layer * groups + g);
            Deviation here;
            here.add(stack, P, one, R), off.add(stack, P, one, R);
            if (here.energy > 0) kept = std::min(kept, 1 - here.squares / here.energy);
        }
        for (int64_t p = 0; p < P; p++)
            for (int64_t r = 0; r < R; r++) {
                for (int64_t h = 0; h < NH; h++) {
                    const LowRank& one = found[static_cast<size_t>(layer * groups + (groups > 1 ? h / group : 0))];
                    f.q[static_cast<size_t>((p * NH + h) * R + r)] = column(one.left, h % stacked * P + p, one.columns(), r);
                }
                for (int64_t g = 0; g < NKV; g++) {
                    const LowRank& one = found[static_cast<size_t>(layer * groups + (groups > 1 ? g : 0))];
                    f.k[static_cast<size_t>((p * NKV + g) * R + r)] = column(one.right, p, one.columns(), r);
                }
            }
        bias.layers.push_back(std::move(f));
    }
    const double n = static_cast<double>(off.causal);
    bias.report = format(
        "attention bias from %s: rank %lld keeps at least %.4f %% of the energy of each; below the diagonal the largest error is "
        "%.3g, the rms error %.3g of %.3g",
        path.c_str(), static_cast<long long>(R), 100 * kept, off.largest, std::sqrt(off.causal_squares / n),
        std::sqrt(off.causal_energy / n));
    return bias;
}

FixedBias bias_of_coordinates(const std::string& path, const ModelConfig& c) {
    const BiasFile file(path, "coordinates");
    const int64_t P = c.max_seq_len, NH = c.n_head, NKV = c.n_kv_head;
    const std::vector<int64_t>& shape = file.shape();
    if (shape.size() != 2 || shape[0] < P || shape[1] < 1 || shape[1] > 8)
        file.refuse("has shape " + shape_text(shape),
                    format("the model needs (N, D) with N of --max-seq-len %lld or more, and D from 1 to 8", static_cast<long long>(P)));
    const int64_t D = shape[1], R = 3 * (D + 1);
    std::vector<float> x(static_cast<size_t>(P * D));
    file.read(0, P * D, x.data());
    for (int64_t d = 0; d < D; d++) {
        double sum = 0;
        for (int64_t p = 0; p < P; p++) sum += static_cast<double>(x[static_cast<size_t>(p * D + d)]);
        for (int64_t p = 0; p < P; p++) x[static_cast<size_t>(p * D + d)] -= static_cast<float>(sum / static_cast<double>(P));
    }

    FixedBias bias;
    bias.rank = R;
    FixedBias::Factors f{std::vector<float>(static_cast<size_t>(P * NH * R)), std::vector<float>(static_cast<size_t>(P * NKV * R))};
    auto hi = [](double a) { return static_cast<double>(bf16_to_float(float_to_bf16(static_cast<float>(a)))); };
    auto query_columns = [&](float* to, double a) { to[0] = to[1] = static_cast<float>(hi(a)), to[2] = static_cast<float>(hi(a - hi(a))); };
    auto key_columns = [&](float* to, double b) { to[0] = to[2] = static_cast<float>(hi(b)), to[1] = static_cast<float>(hi(b - hi(b))); };
    const std::vector<double> slopes = alibi_slopes(NH);
    for (int64_t p = 0; p < P; p++) {
        const float* at = x.data() + p * D;
        for (int64_t h = 0; h < NH; h++) {
            float* q = f.q.data() + (p * NH + h) * R;
            query_columns(q, -slopes[static_cast<size_t>(h)]);
            for (int64_t d = 0; d < D; d++) query_columns(q + 3 * (d + 1), 2 * slopes[static_cast<size_t>(h)] * static_cast<double>(at[d]));
        }
        double square = 0;
        for (int64_t d = 0; d < D; d++) square += static_cast<double>(at[d]) * static_cast<double>(at[d]);
        for (int64_t g = 0; g < NKV; g++) {
            float* k = f.k.data() + (p * NKV + g) * R;
            key_columns(k, square);
            for (int64_t d = 0; d < D; d++) key_columns(k + 3 * (d + 1), static_cast<double>(at[d]));
        }
    }
    bias.layers.push_back(std::move(f));
    bias.report = format("attention bias from %s: distances of %lld coordinates, exact factors of rank %lld", path.c_str(),
                         static_cast<long long>(D), static_cast<long long>(R));
    return bias;
}

bool names_bias_file(const Options& o) {
    const std::string kind = parse_attn_bias(o.attn_bias).kind;
    return kind == "file" || kind == "spatial";
}

FixedBias read_fixed_bias(Options& o) {
    const BiasOption wanted = parse_attn_bias(o.attn_bias);
    o.attn_bias = "none";
    const ModelConfig config = model_config(o);
    FixedBias bias =
        wanted.kind == "file" ? bias_of_matrix(wanted.value, config, o.attn_bias_energy) : bias_of_coordinates(wanted.value, config);
    o.attn_bias = "fixed:" + std::to_string(bias.rank);
    return bias;
}

void place_factors(const FixedBias& bias, const ParamTable& table, Tensor flat_weights) {
    for (const ParamRow& row : table.rows) {
        if (row.trained()) continue;
        const FixedBias::Factors& f = bias.layers[bias.layers.size() > 1 ? static_cast<size_t>(row.layer) : 0];
        const std::vector<float>& from = row.kind == ParamKind::q_factors ? f.q : f.k;
        ENSURE(static_cast<int64_t>(from.size()) == row.numel());
        std::memcpy(flat_weights.as<float>() + row.offset, from.data(), from.size() * sizeof(float));
    }
}

}  // namespace traincu
