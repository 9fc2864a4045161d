// Matrices as products of thin ones: the truncated singular value decomposition, for attention biases that come as whole matrices.
//
// Block subspace iteration (Rutishauser 1970; Halko, Martinsson, Tropp 2011): a basis V of a few more columns than are wanted is multiplied
// by A and by A^T in turns, made orthonormal each time, and so turns towards the leading singular vectors. Then the small matrix
// (A V)^T (A V) is diagonalised by Jacobi's rotations. The products are kernels/gemm_cpu.h's, so the bits do not depend on the threads.
#pragma once

#include <cstdint>
#include <vector>

namespace traincu {

struct LowRank {
    std::vector<float> left, right;  // (M,K) and (N,K): U sqrt(S) and V sqrt(S), A ~ left right^T
    std::vector<double> squares;     // (K) the squares of the singular values, largest first
    double energy = 0;               // |A|^2, the sum of all squares

    int64_t columns() const { return static_cast<int64_t>(squares.size()); }
    // The smallest rank that keeps this share of the energy (1 is taken as 1 - 1e-6); columns() + 1 if all of them do not. The energy that
    // is left out is the squared error of the product of the leading columns, whether the iteration has converged or not: A V V^T is a
    // projection.
    int64_t rank_for(double share) const;
};

// a (M,N), rows without gaps. columns >= 1: how many to compute, at most M and N are.
LowRank low_rank(const float* a, int64_t M, int64_t N, int64_t columns);

}  // namespace traincu
