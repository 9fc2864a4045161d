// cuBLASLt behind kernels/gemm_cublaslt.h. Host code, compiled where the library's header is.
//
// The library is column-major: what it calls a matrix of R rows and C columns, its columns `ld` apart, is our (C,R) tensor with rows `ld`
// apart. So it is asked for the transposed product, D^T = B^T A^T, and no data is moved:
//   forward           out^T (OC,N)      = weight^T transposed (OC,IC) . inp^T (IC,N)            "TN"
//   backward_input    dinp^T (IC,N)     = weight^T (IC,OC) . dout^T (OC,N)                       "NN"
//   backward_weight   dweight^T (IC,OC) = inp^T (IC,N) . dout^T transposed (N,OC)                "NT"
// Sums are f32, products of f32 are not rounded to TF32.
//
// For each problem (types, sizes, strides, transposes, epilogue) descriptors and algorithm are made once. The library proposes up to 12
// algorithms, by a model of their speed; each is timed on the tensors of the call (adding to a scratch result, where it adds), and the
// fastest is kept, on disk too. Not taken are algorithms that split K and add the parts in the result itself or rounded to its type.
//
// GELU at a product's end is the library's in its tanh form, and bf16 only: how many digits it has is not documented, and f32 is there for
// its digits. On some GPUs the library does it in a second, slow kernel. So the fastest algorithm is timed against the product and our own
// activation, one after the other; where these win, an empty list of numbers on disk says so.
#if __has_include(<cublasLt.h>)

#include "kernels/gemm_cublaslt.h"

#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <vector>

#include "kernels/activation.h"
#include "kernels/gemm_cache.h"
#include "kernels/matmul.h"

namespace traincu::gpu {

namespace {

void check(cublasStatus_t status, const char* what) {
    if (status != CUBLAS_STATUS_SUCCESS) throw Error(ExitCode::hardware, format("cuBLASLt: %s: %s", what, cublasLtGetStatusString(status)));
}

// What rides along with a product.
enum class Extra {
    none,
    bias,         // added to each column of D: our bias
    column_sums,  // of B over K: our bias gradient
    gelu,         // D becomes gelu(D), and what it was goes to another matrix, aux, that lies as D does
    bias_gelu,    // the bias first
    gelu_slope,   // D is multiplied by gelu'(aux)
};

cublasLtEpilogue_t epilogue_of(Extra extra) {
    switch (extra) {
        case Extra::bias:
            return CUBLASLT_EPILOGUE_BIAS;
        case Extra::column_sums:
            return CUBLASLT_EPILOGUE_BGRADB;
        case Extra::gelu:
            return CUBLASLT_EPILOGUE_GELU_AUX;
        case Extra::bias_gelu:
            return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
        case Extra::gelu_slope:
            return CUBLASLT_EPILOGUE_DGELU;
        case Extra::none:
            break;
    }
    return CUBLASLT_EPILOGUE_DEFAULT;
}

// D (rows,cols) = A (rows,depth) B (depth,cols), or += : column-major, as the library counts.
struct Problem {
    Dtype in, out;
    bool a_transposed, b_transposed;
    int64_t rows, cols, depth;
    int64_t lda, ldb, ldd;
    Extra extra;
    bool accumulate;
    int64_t workspace;
    auto operator<=>(const Problem&) const = default;

    std::string text() const {
        const char* extras[] = {"", " +bias", " +column sums", " +gelu", " +bias +gelu", " *gelu'"};
        return format("%s->%s %c%c %lldx%lldx%lld ld %lld,%lld,%lld%s%s workspace %lld", name_of(in), name_of(out),
                      a_transposed ? 'T' : 'N', b_transposed ? 'T' : 'N', static_cast<long long>(rows), static_cast<long long>(cols),
                      static_cast<long long>(depth), static_cast<long long>(lda), static_cast<long long>(ldb), static_cast<long long>(ldd),
                      extras[static_cast<int>(extra)], accumulate ? " +=" : "", static_cast<long long>(workspace));
    }
};

struct Buffers {
    const void *a, *b;
    void* d;
    void* vector;     // of the extra: a bias, or the column sums
    const void* aux;  // of the extra; written by gelu and bias_gelu
};

// The same result by several calls, where there is such a way: a rival of the library's algorithms.
using Apart = std::function<void()>;

// The descriptors of a problem, and the algorithm that serves it. They live as long as the program.
struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
    bool accumulate = false;
    int64_t workspace = 0;
    std::optional<cublasLtMatmulAlgo_t> algorithm;  // none: the library has none
};

cudaDataType_t type_of(Dtype dtype) {
    ENSURE(dtype == Dtype::bf16 || dtype == Dtype::f32);
    return dtype == Dtype::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

template <class T>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
    check(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value), "an attribute of a product");
}

cublasLtMatrixLayout_t layout(Dtype dtype, int64_t rows, int64_t cols, int64_t ld) {
    cublasLtMatrixLayout_t result = nullptr;
    check(cublasLtMatrixLayoutCreate(&result, type_of(dtype), static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), ld), "a layout");
    return result;
}

Plan describe(const Problem& p) {
    Plan plan;
    check(cublasLtMatmulDescCreate(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product");
    const auto transpose = [](bool transposed) { return static_cast<int32_t>(transposed ? CUBLAS_OP_T : CUBLAS_OP_N); };
    set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, transpose(p.a_transposed));
    set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, transpose(p.b_transposed));
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(epilogue_of(p.extra)));
    if (p.extra == Extra::bias || p.extra == Extra::column_sums || p.extra == Extra::bias_gelu)
        set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(type_of(p.out)));
    if (p.extra == Extra::gelu || p.extra == Extra::bias_gelu || p.extra == Extra::gelu_slope)
        set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.ldd);
    plan.a = p.a_transposed ? layout(p.in, p.depth, p.rows, p.lda) : layout(p.in, p.rows, p.depth, p.lda);
    plan.b = p.b_transposed ? layout(p.in, p.cols, p.depth, p.ldb) : layout(p.in, p.depth, p.cols, p.ldb);
    plan.d = layout(p.out, p.rows, p.cols, p.ldd);
    plan.accumulate = p.accumulate, plan.workspace = p.workspace;
    return plan;
}

void set_pointers(const Plan& plan, const Buffers& buffers) {
    if (buffers.vector) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, buffers.vector);
    if (buffers.aux) set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, buffers.aux);
}

// The handle, and what is known of the problems that were met. Used by the thread that submits the work.
class Library {
public:
    Library() {
        check(cublasLtCreate(&handle_), "start");
        const DeviceInfo& device = device_info();
        machine_ = format("%s, sm_%d, driver %s, cuBLASLt %s: ", device.name.c_str(), device.compute_capability, device.driver.c_str(),
                          cublaslt_version().c_str());
    }

    Plan& plan_for(const Problem& problem, const Buffers& buffers, Stream& stream, const Apart& apart = {}) {
        const auto found = plans_.find(problem);
        if (found != plans_.end()) return found->second;
        Plan& plan = plans_[problem] = describe(problem);
        set_pointers(plan, buffers);  // their alignment matters
        choose(plan, problem, buffers, stream, apart);
        return plan;
    }

    cublasStatus_t run(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, const Buffers& buffers, Stream& stream) {
        const float one = 1, zero = 0;
        return cublasLtMatmul(handle_, plan.operation, &one, buffers.a, plan.a, buffers.b, plan.b, plan.accumulate ? &one : &zero,
                              buffers.d, plan.d, buffers.d, plan.d, &algorithm, stream.workspace(plan.workspace),
                              static_cast<size_t>(plan.workspace), stream.handle());
    }

private:
    using Candidates = std::vector<cublasLtMatmulAlgo_t>;

    struct Choice {
        cublasLtMatmulAlgo_t algorithm;
        double milliseconds;  // infinite: not timed
    };

    // The plan stays without an algorithm where the library has none, or where `apart` is faster.
    void choose(Plan& plan, const Problem& problem, const Buffers& buffers, Stream& stream, const Apart& apart) {
        const std::string key = machine_ + problem.text();
        static_assert(sizeof(cublasLtMatmulAlgo_t) % sizeof(uint64_t) == 0);
        std::vector<uint64_t> words(sizeof(cublasLtMatmulAlgo_t) / sizeof(uint64_t));
        const auto* known = gemm_cache().find(key);
        if (known && known->empty() && apart) return;
        if (known && known->size() == words.size()) {
            cublasLtMatmulAlgo_t algorithm;
            std::memcpy(&algorithm, known->data(), sizeof algorithm);
            cublasLtMatmulHeuristicResult_t result = {};
            if (cublasLtMatmulAlgoCheck(handle_, plan.operation, plan.a, plan.b, plan.d, plan.d, &algorithm, &result) ==
                    CUBLAS_STATUS_SUCCESS &&
                result.workspaceSize <= static_cast<size_t>(plan.workspace)) {
                plan.algorithm = algorithm;
                return;
            }
        }
        const Candidates candidates = propose(plan);
        if (candidates.empty()) return;
        constexpr double not_timed = std::numeric_limits<double>::infinity();
        const bool rivals = candidates.size() > 1 || apart;
        const Choice best = rivals ? fastest(plan, candidates, problem, buffers, stream) : Choice{candidates[0], not_timed};
        if (apart && !(best.milliseconds < median_milliseconds([&] { return apart(), true; }, stream))) return gemm_cache().store(key, {});
        plan.algorithm = best.algorithm;
        std::memcpy(words.data(), &*plan.algorithm, sizeof *plan.algorithm);
        gemm_cache().store(key, words);
    }

    // The library's proposals, what it believes to be the fastest first.
    Candidates propose(const Plan& plan) {
        constexpr int most = 12;
        constexpr uint32_t alignment = 16;
        const uint64_t workspace = static_cast<uint64_t>(plan.workspace);
        const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;  // or none
        cublasLtMatmulPreference_t preference = nullptr;
        check(cublasLtMatmulPreferenceCreate(&preference), "a preference");
        const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
            check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value), "an attribute of a preference");
        };
        prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
        prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reduction);
        for (auto attribute : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                               CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
            prefer(attribute, alignment);
        std::vector<cublasLtMatmulHeuristicResult_t> results(most);
        int count = 0;
        const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation, plan.a, plan.b, plan.d, plan.d, preference,
                                                                     most, results.data(), &count);
        cublasLtMatmulPreferenceDestroy(preference);
        Candidates candidates;
        if (status != CUBLAS_STATUS_SUCCESS) return candidates;
        for (int i = 0; i < count; i++)
            if (results[static_cast<size_t>(i)].state == CUBLAS_STATUS_SUCCESS) candidates.push_back(results[static_cast<size_t>(i)].algo);
        return candidates;
    }

    // Into a scratch result where candidates add to it; without room for one, the first.
    Choice fastest(const Plan& plan, const Candidates& candidates, const Problem& problem, const Buffers& buffers, Stream& stream) {
        Choice best{candidates[0], std::numeric_limits<double>::infinity()};
        const int64_t bytes = problem.ldd * problem.cols * size_of(problem.out);
        void* scratch = problem.accumulate ? allocate(bytes) : nullptr;
        if (problem.accumulate && !scratch) return best;
        Buffers to = buffers;
        if (scratch) to.d = scratch, fill_bytes(scratch, 0, bytes, stream.handle());
        for (const cublasLtMatmulAlgo_t& algorithm : candidates) {
            const double time = median_milliseconds([&] { return run(plan, algorithm, to, stream) == CUBLAS_STATUS_SUCCESS; }, stream);
            if (time < best.milliseconds) best = {algorithm, time};
        }
        if (scratch) release(scratch);
        return best;
    }

    // Of seven runs after one that warms up. Infinite if one fails.
    template <class Run>
    static double median_milliseconds(const Run& run, Stream& stream) {
        constexpr size_t repetitions = 7;
        std::vector<EventHandle> events;
        for (size_t i = 0; i <= repetitions; i++) events.push_back(create_event());
        bool works = run();
        record(events[0], stream.handle());
        for (size_t i = 1; works && i < events.size(); i++) {
            works = run();
            record(events[i], stream.handle());
        }
        double median = std::numeric_limits<double>::infinity();
        if (works) {
            synchronize(events.back());
            std::vector<double> times;
            for (size_t i = 1; i < events.size(); i++) times.push_back(milliseconds(events[i - 1], events[i]));
            std::nth_element(times.begin(), times.begin() + repetitions / 2, times.end());
            median = times[repetitions / 2];
        }
        for (EventHandle event : events) destroy_event(event);
        return median;
    }

    cublasLtHandle_t handle_ = nullptr;
    std::string machine_;
    std::map<Problem, Plan> plans_;
};

Library& library() {
    static Library& library = *new Library;  // never destroyed: the runtime may be gone by then
    return library;
}

bool multiply(const Problem& problem, const Buffers& buffers, Stream& stream, const Apart& apart = {}) {
    Plan& plan = library().plan_for(problem, buffers, stream, apart);
    if (!plan.algorithm) return false;
    set_pointers(plan, buffers);
    check(library().run(plan, *plan.algorithm, buffers, stream), "a product");
    return true;
}

bool aligned16(const Tensor& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0; }

// Rows begin at multiples of 16 bytes, and there are some.
bool suits(const Tensor& t) { return t.numel() > 0 && aligned16(t) && t.row_stride * size_of(t.dtype) % 16 == 0; }

}  // namespace

std::string cublaslt_version() {
    int parts[3] = {};
    const libraryPropertyType which[3] = {MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL};
    for (int i = 0; i < 3; i++) check(cublasLtGetProperty(which[i], &parts[i]), "version");
    return format("%d.%d.%d", parts[0], parts[1], parts[2]);
}

int64_t cublaslt_workspace_bytes(const Stream& stream) { return std::min(int64_t{32} << 20, stream.workspace_bytes() / 2) / 256 * 256; }

namespace {

Problem forward_problem(const Tensor& out, const Tensor& inp, const Tensor& weight, Extra extra, bool accumulate, const Stream& stream) {
    return {.in = inp.dtype,
            .out = out.dtype,
            .a_transposed = true,
            .b_transposed = false,
            .rows = weight.rows(),
            .cols = inp.rows(),
            .depth = inp.cols(),
            .lda = weight.row_stride,
            .ldb = inp.row_stride,
            .ldd = out.row_stride,
            .extra = extra,
            .accumulate = accumulate,
            .workspace = cublaslt_workspace_bytes(stream)};
}

Problem backward_input_problem(const Tensor& dinp, const Tensor& dout, const Tensor& weight, Extra extra, bool accumulate,
                               const Stream& stream) {
    return {.in = dout.dtype,
            .out = dinp.dtype,
            .a_transposed = false,
            .b_transposed = false,
            .rows = weight.cols(),
            .cols = dout.rows(),
            .depth = dout.cols(),
            .lda = weight.row_stride,
            .ldb = dout.row_stride,
            .ldd = dinp.row_stride,
            .extra = extra,
            .accumulate = accumulate,
            .workspace = cublaslt_workspace_bytes(stream)};
}

}  // namespace

bool cublaslt_forward(Tensor out, Tensor inp, Tensor weight, Tensor bias, bool accumulate, Stream& stream) {
    if (weight.dtype != inp.dtype || !suits(out) || !suits(inp) || !suits(weight) || !aligned16(bias)) return false;
    return multiply(forward_problem(out, inp, weight, bias ? Extra::bias : Extra::none, accumulate, stream),
                    {weight.data, inp.data, out.data, bias.data, nullptr}, stream);
}

bool cublaslt_backward_input(Tensor dinp, Tensor dout, Tensor weight, bool accumulate, Stream& stream) {
    if (weight.dtype != dout.dtype || !suits(dinp) || !suits(dout) || !suits(weight)) return false;
    return multiply(backward_input_problem(dinp, dout, weight, Extra::none, accumulate, stream),
                    {weight.data, dout.data, dinp.data, nullptr, nullptr}, stream);
}

bool cublaslt_gelu_forward(Tensor out, Tensor pre, Tensor inp, Tensor weight, Tensor bias, Stream& stream) {
    if (out.dtype != Dtype::bf16 || !suits(out) || !suits(pre) || !suits(inp) || !suits(weight) || !aligned16(bias)) return false;
    return multiply(forward_problem(out, inp, weight, bias ? Extra::bias_gelu : Extra::gelu, false, stream),
                    {weight.data, inp.data, out.data, bias.data, pre.data}, stream, [&] {
                        gpu::linear_forward(pre, inp, weight, bias, stream);
                        gpu::gelu_forward(out, pre, stream);
                    });
}

bool cublaslt_gelu_backward_input(Tensor dpre, Tensor dout, Tensor weight, Tensor pre, Stream& stream) {
    if (dpre.dtype != Dtype::bf16 || !suits(dpre) || !suits(dout) || !suits(weight) || !suits(pre)) return false;
    return multiply(backward_input_problem(dpre, dout, weight, Extra::gelu_slope, false, stream),
                    {weight.data, dout.data, dpre.data, nullptr, pre.data}, stream, [&] {
                        gpu::linear_backward_input(dpre, dout, weight, stream);
                        gpu::gelu_backward(dpre, dpre, pre, stream);
                    });
}

bool cublaslt_backward_weight(Tensor dweight, float* column_sums, Tensor dout, Tensor inp, int64_t unit_rows, Stream& stream) {
    if (!suits(dweight) || !suits(dout) || !suits(inp)) return false;
    const int64_t N = dout.rows(), OC = dout.cols(), unit = unit_rows == 0 ? N : unit_rows;
    if (column_sums && OC % 4 != 0) return false;  // the second unit's sums would not begin at a multiple of 16 bytes
    Problem problem{.in = dout.dtype,
                    .out = dweight.dtype,
                    .a_transposed = false,
                    .b_transposed = true,
                    .rows = inp.cols(),
                    .cols = OC,
                    .depth = 0,
                    .lda = inp.row_stride,
                    .ldb = dout.row_stride,
                    .ldd = dweight.row_stride,
                    .extra = column_sums ? Extra::column_sums : Extra::none,
                    .accumulate = true,
                    .workspace = cublaslt_workspace_bytes(stream)};
    auto buffers = [&](int64_t begin, int64_t rows) {
        float* sums = column_sums ? column_sums + begin / unit * OC : nullptr;
        return Buffers{inp.slice_rows(begin, rows).data, dout.slice_rows(begin, rows).data, dweight.data, sums, nullptr};
    };
    // The whole units, and what is left: does the library take both?
    for (int64_t rows : {std::min(unit, N), N % unit})
        if (rows > 0) {
            problem.depth = rows;
            if (!library().plan_for(problem, buffers(0, rows), stream).algorithm) return false;
        }
    for (int64_t begin = 0; begin < N; begin += unit) {
        problem.depth = std::min(unit, N - begin);
        ENSURE(multiply(problem, buffers(begin, problem.depth), stream));
    }
    return true;
}

}  // namespace traincu::gpu

#endif
