// A stand-in for cuBLASLt where the SIMT runner executes kernels: the functions that kernels/gemm_cublaslt.cpp calls, on the runner's
// memory, by plain loops over what the descriptors say. So what is asked of the library is executed and checked, though not the library.
//
// It refuses what the library documents to refuse: descriptors that do not fit together, columns of bf16 that do not begin at multiples of
// 16 bytes, a workspace that is too small, GELU's other matrix where it is absent or does not lie so; and sums of columns beside a product
// of f32, so that the caller's other way is taken too. It proposes an algorithm in one sequence and one in two halves whose sums meet in
// the workspace; and, to who allows that, one whose reduction has no fixed order: running it is a failure.
#if __has_include(<cublasLt.h>)

#include <cublasLt.h>

#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "src/base/dtype.h"
#include "tests/simt/access.h"
#include "tests/simt/cublaslt.h"
#include "tests/simt/host_work.h"
#include "tests/simt/memory.h"

using namespace traincu;

simt::CublasltGelu simt::cublaslt_gelu;

namespace {

struct Layout {
    cudaDataType type;
    int64_t rows, cols, ld;  // columns are dense, ld elements apart
};
struct Operation {
    cublasComputeType_t compute;
    cudaDataType scale;
    int32_t a_transpose, b_transpose;
    uint32_t epilogue;
    void* vector;
    int32_t vector_type;
    void* aux;
    int64_t aux_ld;

    bool adds_bias() const { return epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS; }
    bool is_gelu() const { return epilogue == CUBLASLT_EPILOGUE_GELU_AUX || epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS; }
    bool is_gelu_slope() const { return epilogue == CUBLASLT_EPILOGUE_DGELU; }
    bool sums_columns() const { return epilogue == CUBLASLT_EPILOGUE_BGRADB; }
};
struct Preference {
    uint64_t workspace;
    uint32_t reductions, alignment;  // the smallest that was asked for
};
enum class Way : uint64_t { sequence = 1, halves, any_order };
struct Algorithm {
    uint64_t magic;
    Way way;
    int64_t workspace;
};
constexpr uint64_t magic = 0x74696E2063752E00;

// The library's descriptors are bytes that only the library reads: these are ours.
template <class T, class Opaque>
T& inside(Opaque* opaque) {
    static_assert(sizeof(T) <= sizeof(Opaque) && std::is_trivially_copyable_v<T>);
    return *reinterpret_cast<T*>(opaque);
}
const Layout& of(cublasLtMatrixLayout_t layout) { return inside<Layout>(layout); }

int64_t size_of_type(cudaDataType type) { return type == CUDA_R_16BF ? 2 : 4; }

struct Product {
    Operation operation;
    Layout a, b, c, d;

    int64_t depth() const { return operation.a_transpose == CUBLAS_OP_T ? a.rows : a.cols; }
    int64_t workspace(Way way) const { return way == Way::sequence ? 0 : 2 * d.rows * d.cols * int64_t{sizeof(float)}; }

    cublasStatus_t check() const {
        const bool a_t = operation.a_transpose == CUBLAS_OP_T, b_t = operation.b_transpose == CUBLAS_OP_T;
        if ((a_t ? a.cols : a.rows) != d.rows || (b_t ? b.rows : b.cols) != d.cols || (b_t ? b.cols : b.rows) != depth())
            return CUBLAS_STATUS_INVALID_VALUE;
        if (c.rows != d.rows || c.cols != d.cols || c.type != d.type) return CUBLAS_STATUS_INVALID_VALUE;
        for (const Layout& x : {a, b, c, d}) {
            if (x.rows <= 0 || x.cols <= 0 || x.ld < x.rows) return CUBLAS_STATUS_INVALID_VALUE;
            if (x.type == CUDA_R_16BF && x.ld % 8 != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
        }
        const bool types =
            (a.type == CUDA_R_16BF && (d.type == CUDA_R_16BF || d.type == CUDA_R_32F)) || (a.type == CUDA_R_32F && d.type == CUDA_R_32F);
        if (operation.compute != CUBLAS_COMPUTE_32F || operation.scale != CUDA_R_32F || a.type != b.type || !types)
            return CUBLAS_STATUS_NOT_SUPPORTED;
        if (operation.is_gelu() || operation.is_gelu_slope()) {
            if (!operation.aux || operation.aux_ld % 8 != 0 || operation.aux_ld < d.rows) return CUBLAS_STATUS_INVALID_VALUE;
            if (reinterpret_cast<uintptr_t>(operation.aux) % 16 != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
        }
        if (!operation.adds_bias() && !operation.sums_columns())
            return operation.epilogue == CUBLASLT_EPILOGUE_DEFAULT || operation.is_gelu() || operation.is_gelu_slope()
                       ? CUBLAS_STATUS_SUCCESS
                       : CUBLAS_STATUS_NOT_SUPPORTED;
        if (operation.sums_columns() && a.type == CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
        if (!operation.vector) return CUBLAS_STATUS_INVALID_VALUE;
        if (operation.vector_type != -1 && operation.vector_type != static_cast<int32_t>(d.type)) return CUBLAS_STATUS_NOT_SUPPORTED;
        return reinterpret_cast<uintptr_t>(operation.vector) % 16 == 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
    }
};

Product product_of(cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                   cublasLtMatrixLayout_t d) {
    return {inside<Operation>(operation), of(a), of(b), of(c), of(d)};
}

cublasLtMatmulAlgo_t algorithm(const Product& product, Way way) {
    cublasLtMatmulAlgo_t algo = {};
    inside<Algorithm>(&algo) = {magic, way, product.workspace(way)};
    return algo;
}

// ---- what runs when the stream comes to it

struct Failure {
    std::string what;
};

void check_inside(const void* memory, int64_t bytes, const char* what) {
    const auto* begin = static_cast<const std::byte*>(memory);
    const simt::Allocation* allocation = simt::find(memory);
    if (!allocation || !allocation->live || begin + bytes > allocation->begin + allocation->bytes)
        throw Failure{format("cuBLASLt: %s of %lld bytes at %s", what, static_cast<long long>(bytes), simt::describe(memory).c_str())};
}

// Columns of `length` numbers, `ld` apart, to and from (cols, length) floats.
std::vector<float> read(const void* memory, cudaDataType type, int64_t length, int64_t cols, int64_t ld, const char* what) {
    const int64_t size = size_of_type(type);
    std::vector<float> values(static_cast<size_t>(length * cols));
    std::vector<std::byte> column(static_cast<size_t>(length * size));
    for (int64_t c = 0; c < cols; c++) {
        const auto* from = static_cast<const std::byte*>(memory) + c * ld * size;
        check_inside(from, length * size, what);
        simt::host_copy(column.data(), from, length * size);
        float* to = values.data() + c * length;
        if (type == CUDA_R_32F)
            std::memcpy(to, column.data(), column.size());
        else
            for (int64_t i = 0; i < length; i++) {
                uint16_t bits = 0;
                std::memcpy(&bits, column.data() + 2 * i, sizeof bits);
                to[i] = bf16_to_float(bits);
            }
    }
    return values;
}
void write(void* memory, cudaDataType type, const std::vector<float>& values, int64_t length, int64_t cols, int64_t ld, const char* what) {
    const int64_t size = size_of_type(type);
    std::vector<std::byte> column(static_cast<size_t>(length * size));
    for (int64_t c = 0; c < cols; c++) {
        const float* from = values.data() + c * length;
        if (type == CUDA_R_32F)
            std::memcpy(column.data(), from, column.size());
        else
            for (int64_t i = 0; i < length; i++) {
                const uint16_t bits = float_to_bf16(from[i]);
                std::memcpy(column.data() + 2 * i, &bits, sizeof bits);
            }
        auto* to = static_cast<std::byte*>(memory) + c * ld * size;
        check_inside(to, length * size, what);
        simt::host_copy(to, column.data(), length * size);
    }
}

float gelu_inner(float x) { return 0.7978845608f * (x + 0.044715f * x * x * x); }

struct Call {
    Product product;
    Way way;
    float alpha, beta;
    const void *a, *b, *c;
    void *d, *workspace;

    void run() const {
        if (way == Way::any_order) throw Failure{"cuBLASLt: an algorithm was run whose result depends on the order of threads"};
        const Layout &la = product.a, &lb = product.b, &ld = product.d;
        const std::vector<float> x = read(a, la.type, la.rows, la.cols, la.ld, "matrix A");
        const std::vector<float> y = read(b, lb.type, lb.rows, lb.cols, lb.ld, "matrix B");
        const bool a_t = product.operation.a_transpose == CUBLAS_OP_T, b_t = product.operation.b_transpose == CUBLAS_OP_T;
        const int64_t K = product.depth();
        const auto at_a = [&](int64_t row, int64_t k) { return x[static_cast<size_t>(a_t ? row * la.rows + k : k * la.rows + row)]; };
        const auto at_b = [&](int64_t k, int64_t col) { return y[static_cast<size_t>(b_t ? k * lb.rows + col : col * lb.rows + k)]; };

        const int64_t parts = way == Way::halves ? 2 : 1, count = ld.rows * ld.cols;
        std::vector<float> sums(static_cast<size_t>(parts * count));
        for (int64_t part = 0; part < parts; part++)
            for (int64_t col = 0; col < ld.cols; col++)
                for (int64_t row = 0; row < ld.rows; row++) {
                    float sum = 0;
                    for (int64_t k = part * K / parts; k < (part + 1) * K / parts; k++) sum += at_a(row, k) * at_b(k, col);
                    sums[static_cast<size_t>(part * count + col * ld.rows + row)] = sum;
                }
        if (parts == 2) {
            write(workspace, CUDA_R_32F, sums, 2 * count, 1, 2 * count, "the workspace");
            for (int64_t i = 0; i < count; i++) sums[static_cast<size_t>(i)] += sums[static_cast<size_t>(count + i)];
            sums.resize(static_cast<size_t>(count));
        }
        const Operation& operation = product.operation;
        std::vector<float> before, bias, aux;
        if (beta != 0) before = read(c, ld.type, ld.rows, ld.cols, product.c.ld, "matrix C");
        if (operation.adds_bias()) bias = read(operation.vector, ld.type, ld.rows, 1, ld.rows, "the bias");
        if (operation.is_gelu_slope()) aux = read(operation.aux, ld.type, ld.rows, ld.cols, operation.aux_ld, "GELU's input");
        for (int64_t col = 0; col < ld.cols; col++)
            for (int64_t row = 0; row < ld.rows; row++) {
                const auto i = static_cast<size_t>(col * ld.rows + row);
                sums[i] = alpha * sums[i] + (beta != 0 ? beta * before[i] : 0.0f) + (bias.empty() ? 0.0f : bias[static_cast<size_t>(row)]);
            }
        if (operation.is_gelu()) {
            write(operation.aux, ld.type, sums, ld.rows, ld.cols, operation.aux_ld, "GELU's input");
            for (float& x : sums) x = 0.5f * x * (1 + std::tanh(gelu_inner(x)));
        }
        for (size_t i = 0; i < aux.size(); i++) {
            const float x = aux[i], t = std::tanh(gelu_inner(x));
            sums[i] *= 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * 0.7978845608f * (1 + 3 * 0.044715f * x * x);
        }
        const bool gelu = operation.is_gelu() || operation.is_gelu_slope();
        simt::cublaslt_gelu.runs += gelu;
        simt::let_time_pass(gelu ? simt::cublaslt_gelu.milliseconds : simt::cublaslt_gelu.milliseconds_without);
        write(d, ld.type, sums, ld.rows, ld.cols, ld.ld, "matrix D");
        if (operation.sums_columns()) {
            std::vector<float> columns(static_cast<size_t>(ld.cols));
            for (int64_t col = 0; col < ld.cols; col++)
                for (int64_t k = 0; k < K; k++) columns[static_cast<size_t>(col)] += at_b(k, col);
            write(operation.vector, ld.type, columns, ld.cols, 1, ld.cols, "the bias gradient");
        }
    }
};

}  // namespace

struct cublasLtContext {};

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    static cublasLtContext context;
    *handle = &context;
    return CUBLAS_STATUS_SUCCESS;
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
    return status == CUBLAS_STATUS_NOT_SUPPORTED ? "not supported" : status == CUBLAS_STATUS_INVALID_VALUE ? "invalid value" : "no success";
}
cublasStatus_t cublasLtGetProperty(libraryPropertyType type, int* value) {
    *value = type == MAJOR_VERSION ? CUBLAS_VER_MAJOR : type == MINOR_VERSION ? CUBLAS_VER_MINOR : CUBLAS_VER_PATCH;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows, uint64_t cols, int64_t ld) {
    *layout = new cublasLtMatrixLayoutOpaque_t;
    inside<Layout>(*layout) = {type, static_cast<int64_t>(rows), static_cast<int64_t>(cols), ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation, cublasComputeType_t compute, cudaDataType_t scale) {
    *operation = new cublasLtMatmulDescOpaque_t;
    inside<Operation>(*operation) = {compute, scale, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr, -1, nullptr, 0};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
    Operation& op = inside<Operation>(operation);
    const auto set = [&](auto& member) {
        if (bytes != sizeof member) return CUBLAS_STATUS_INVALID_VALUE;
        std::memcpy(&member, value, sizeof member);
        return CUBLAS_STATUS_SUCCESS;
    };
    switch (attribute) {
        case CUBLASLT_MATMUL_DESC_TRANSA:
            return set(op.a_transpose);
        case CUBLASLT_MATMUL_DESC_TRANSB:
            return set(op.b_transpose);
        case CUBLASLT_MATMUL_DESC_EPILOGUE:
            return set(op.epilogue);
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
            return set(op.vector);
        case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
            return set(op.vector_type);
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
            return set(op.aux);
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
            return set(op.aux_ld);
        default:
            return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    *preference = new cublasLtMatmulPreferenceOpaque_t;
    inside<Preference>(*preference) = {0, CUBLASLT_REDUCTION_SCHEME_MASK, 256};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
    Preference& p = inside<Preference>(preference);
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES && bytes == sizeof p.workspace) {
        std::memcpy(&p.workspace, value, bytes);
        return CUBLAS_STATUS_SUCCESS;
    }
    if (bytes != sizeof(uint32_t)) return CUBLAS_STATUS_INVALID_VALUE;
    uint32_t number = 0;
    std::memcpy(&number, value, bytes);
    switch (attribute) {
        case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
            p.reductions = number;
            return CUBLAS_STATUS_SUCCESS;
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
            if (number < p.alignment) p.alignment = number;
            return CUBLAS_STATUS_SUCCESS;
        default:
            return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most, cublasLtMatmulHeuristicResult_t results[],
                                              int* count) {
    const Product product = product_of(operation, a, b, c, d);
    const Preference& p = inside<Preference>(preference);
    *count = 0;
    if (const cublasStatus_t status = product.check(); status != CUBLAS_STATUS_SUCCESS) return status;
    if (p.alignment % 16 != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    const auto propose = [&](Way way, uint32_t reduction) {
        if (*count == most || static_cast<uint64_t>(product.workspace(way)) > p.workspace || (reduction & ~p.reductions)) return;
        cublasLtMatmulHeuristicResult_t& result = results[(*count)++];
        result = {};
        result.algo = algorithm(product, way), result.workspaceSize = static_cast<size_t>(product.workspace(way));
        result.state = CUBLAS_STATUS_SUCCESS;
    };
    propose(Way::any_order, CUBLASLT_REDUCTION_SCHEME_INPLACE);
    propose(Way::halves, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
    propose(Way::sequence, CUBLASLT_REDUCTION_SCHEME_NONE);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algo,
                                       cublasLtMatmulHeuristicResult_t* result) {
    const Product product = product_of(operation, a, b, c, d);
    if (const cublasStatus_t status = product.check(); status != CUBLAS_STATUS_SUCCESS) return status;
    const Algorithm& algorithm = inside<const Algorithm>(algo);
    if (algorithm.magic != magic || algorithm.workspace != product.workspace(algorithm.way)) return CUBLAS_STATUS_INVALID_VALUE;
    *result = {};
    result->algo = *algo, result->workspaceSize = static_cast<size_t>(algorithm.workspace);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha, const void* a, cublasLtMatrixLayout_t la,
                              const void* b, cublasLtMatrixLayout_t lb, const void* beta, const void* c, cublasLtMatrixLayout_t lc, void* d,
                              cublasLtMatrixLayout_t ld, const cublasLtMatmulAlgo_t* algo, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
    const Product product = product_of(operation, la, lb, lc, ld);
    cublasLtMatmulHeuristicResult_t result;
    if (const cublasStatus_t status = cublasLtMatmulAlgoCheck(nullptr, operation, la, lb, lc, ld, algo, &result);
        status != CUBLAS_STATUS_SUCCESS)
        return status;
    for (const void* pointer : {a, b, c, static_cast<const void*>(d)})
        if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (workspace_bytes < result.workspaceSize || (result.workspaceSize > 0 && !workspace)) return CUBLAS_STATUS_INVALID_VALUE;
    // alpha and beta are read now, the tensors when the stream comes to them.
    const Call call{
        product,  inside<const Algorithm>(algo).way, *static_cast<const float*>(alpha), *static_cast<const float*>(beta), a, b, c, d,
        workspace};
    simt::enqueue_host(stream, "cuBLASLt", [call] {
        try {
            call.run();
        } catch (const Failure& failure) {
            return failure.what;
        }
        return std::string();
    });
    return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"

#endif
