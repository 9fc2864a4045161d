// ldmatrix, mma.sync and cp.async: what a warp's lanes do together, or what goes on beside them.
#include <cstring>
#include <vector>

#include "src/base/dtype.h"
#include "tests/simt/access.h"
#include "tests/simt/block.h"
#include "tests/simt/memory.h"

namespace traincu::simt {

namespace {

constexpr unsigned whole_warp = 0xFFFFFFFFu;

struct LdmatrixOperand {
    uint32_t* r;
    const void* row;
};

struct MmaOperand {
    float* d;
    const uint32_t *a, *b;
};

template <bool is_bf16>
float element(uint32_t pair, int which) {
    const auto bits = static_cast<uint16_t>(pair >> 16 * which);
    return is_bf16 ? bf16_to_float(bits) : half_to_float(bits);
}

// The fragments' layout is the table in kernels/launch_cuda.h: g = lane / 4, c = 2 (lane % 4).
template <bool is_bf16>
void mma_of_warp(Meeting& meeting, const Where&) {
    float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < lanes_of_warp; lane++) {
        const auto& from = *static_cast<MmaOperand*>(meeting.operand[lane]);
        const int g = lane / 4, c = 2 * (lane % 4);
        for (int e = 0; e < 2; e++) {
            for (int i = 0; i < 4; i++) a[g + 8 * (i % 2)][c + 8 * (i / 2) + e] = element<is_bf16>(from.a[i], e);
            for (int i = 0; i < 2; i++) b[c + 8 * i + e][g] = element<is_bf16>(from.b[i], e), d[g + 8 * i][c + e] = from.d[2 * i + e];
        }
    }
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++) d[m][n] += a[m][k] * b[k][n];
    for (int lane = 0; lane < lanes_of_warp; lane++) {
        const auto& to = *static_cast<MmaOperand*>(meeting.operand[lane]);
        const int g = lane / 4, c = 2 * (lane % 4);
        for (int e = 0; e < 4; e++) to.d[e] = d[g + 8 * (e / 2)][c + e % 2];
    }
}

template <bool transposed>
void ldmatrix_of_warp(Meeting& meeting, const Where&) {
    uint16_t matrix[4][8][8];
    for (int lane = 0; lane < lanes_of_warp; lane++)
        std::memcpy(matrix[lane / 8][lane % 8], static_cast<LdmatrixOperand*>(meeting.operand[lane])->row, 16);
    for (int lane = 0; lane < lanes_of_warp; lane++) {
        const int g = lane / 4, c = 2 * (lane % 4);
        for (int i = 0; i < 4; i++) {
            const uint16_t low = transposed ? matrix[i][c][g] : matrix[i][g][c];
            const uint16_t high = transposed ? matrix[i][c + 1][g] : matrix[i][g][c + 1];
            static_cast<LdmatrixOperand*>(meeting.operand[lane])->r[i] = static_cast<uint32_t>(high) << 16 | low;
        }
    }
}

}  // namespace

void ldmatrix(uint32_t (&r)[4], const void* row, bool transposed, const Where& at) {
    check_shared(row, 16, "ldmatrix", at);
    read_access(row, 16, true, __builtin_return_address(0));
    LdmatrixOperand mine{r, row};
    if (transposed)
        meet(whole_warp, "ldmatrix_x4_trans", &mine, ldmatrix_of_warp<true>, at);
    else
        meet(whole_warp, "ldmatrix_x4", &mine, ldmatrix_of_warp<false>, at);
}

void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bf16, const Where& at) {
    MmaOperand mine{d, a, b};
    meet(whole_warp, bf16 ? "mma_m16n8k16<bf16>" : "mma_m16n8k16<f16>", &mine, bf16 ? mma_of_warp<true> : mma_of_warp<false>, at);
}

// ---- cp.async

void async_copy16(void* to, const void* from, bool valid, const Where& at) {
    check_shared(to, 16, "cp_async16", at);
    check_aligned(from, 16, at);
    if (valid) read_access(from, 16, true, __builtin_return_address(0));
    begin_async_write(to, 16, __builtin_return_address(0));
    AsyncCopy copy{static_cast<std::byte*>(to), {}, self->groups_committed};
    if (valid) std::memcpy(copy.data, from, 16);
    std::memset(to, 0xFF, 16);  // NaN while it is under way
    self->copies.push_back(copy);
}

void async_commit() { self->groups_committed++; }

void async_wait(int groups) {
    auto& copies = self->copies;
    size_t done = 0;
    // A copy of group g, the first being 0, is done when at most committed - 1 - g groups came after it.
    while (done < copies.size() && self->groups_committed - copies[done].group > groups) {
        std::memcpy(copies[done].to, copies[done].data, 16);
        end_async_write(copies[done].to, 16);
        done++;
    }
    copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(done));
}

}  // namespace traincu::simt
