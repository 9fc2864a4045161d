#include "src/config/batch_options.h"

#include <algorithm>
#include <numeric>

#include "src/base/error.h"
#include "src/base/integers.h"

namespace traincu {

// A micro-batch has whole units. At ranks each logical worker has an equal share of whole micro-batches.
static void check_split(const Options& o) {
    if (!sums_by_units(o)) return;
    const int64_t tokens = o.batch_size * o.seq_len, own = o.total_batch_tokens / o.ranks,
                  rows = unit_tokens / std::gcd(unit_tokens, o.seq_len), share = logical_workers * tokens;
    if (tokens % unit_tokens != 0 || own % unit_tokens != 0)
        throw Error(
            ExitCode::usage,
            format("--determinism %s sums by units of %d tokens, and a micro-batch of %lld x %lld or a step of %lld has no whole number",
                   o.determinism.c_str(), unit_tokens, static_cast<long long>(o.batch_size), static_cast<long long>(o.seq_len),
                   static_cast<long long>(o.total_batch_tokens)),
            format("choose a multiple of %lld for --batch-size, and of %lld for --total-batch-tokens", static_cast<long long>(rows),
                   static_cast<long long>(rows * o.seq_len)));
    if (o.determinism == "ranks" && o.total_batch_tokens % share != 0)
        throw Error(
            ExitCode::usage,
            format(
                "--determinism ranks gives each of %d logical workers as many whole micro-batches, and a step of %lld tokens has %lld of "
                "%lld",
                logical_workers, static_cast<long long>(o.total_batch_tokens),
                static_cast<long long>(div_ceil(o.total_batch_tokens, tokens)), static_cast<long long>(tokens)),
            format("choose a --total-batch-tokens that is a multiple of %lld, or a smaller --batch-size", static_cast<long long>(share)));
}

// Each rank computes as many whole rows.
static void check_ranks(const Options& o) {
    const int64_t shared = o.ranks * o.seq_len;
    if (o.total_batch_tokens % shared != 0)
        throw Error(ExitCode::usage,
                    format("a step of --total-batch-tokens %lld has %lld rows of %lld tokens, which %lld ranks cannot share out equally",
                           static_cast<long long>(o.total_batch_tokens), static_cast<long long>(o.total_batch_tokens / o.seq_len),
                           static_cast<long long>(o.seq_len), static_cast<long long>(o.ranks)),
                    format("choose a multiple of %lld", static_cast<long long>(shared)));
    if (o.determinism == "ranks" && logical_workers % o.ranks != 0)
        throw Error(ExitCode::usage,
                    format("--determinism ranks shares %d logical workers out to the ranks, and there are %lld ranks", logical_workers,
                           static_cast<long long>(o.ranks)),
                    "start 1, 2, 4 or 8 ranks, or choose --determinism batch");
}

void resolve_batch(Options& o) {
    if (o.total_batch_tokens == 0) o.total_batch_tokens = o.ranks * o.batch_size * o.seq_len;
    if (o.total_batch_tokens % o.seq_len != 0)
        throw Error(ExitCode::usage,
                    format("--total-batch-tokens %lld is not a whole number of rows of --seq-len %lld",
                           static_cast<long long>(o.total_batch_tokens), static_cast<long long>(o.seq_len)),
                    "choose a multiple of --seq-len");
    check_ranks(o);
    o.batch_size = std::min(o.batch_size, o.total_batch_tokens / o.seq_len / o.ranks);
    check_split(o);
}

}  // namespace traincu
