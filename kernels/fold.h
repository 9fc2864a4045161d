// Sums over rows, where many blocks share the rows and the result may not depend on which of them is first: the rows are cut in parts, a
// block sums a part on its own, and fold_units() adds the parts in a fixed order. For .cu files.
//
// Parts lie within units (kernels/norm.h, "Units"): where the caller gives none, the parts are dealt to at most 16 units of equal size,
// since the units are what the fold sums side by side.
#pragma once

#include "kernels/packs.h"

namespace traincu::gpu {

struct Parts {
    int64_t rows, unit_rows, part_rows;

    // unit_rows = 0: about `most` parts, each of a multiple of `step` rows. Else parts of 32 rows, whatever the number of rows: the bits of
    // a unit do not depend on what is beside it.
    static Parts of(int64_t rows, int64_t unit_rows, int64_t most, int64_t step) {
        if (unit_rows > 0) return {rows, unit_rows, 32};
        const int64_t part = div_ceil(div_ceil(rows, most), step) * step;
        return {rows, part * div_ceil(div_ceil(rows, part), 16), part};
    }
    int64_t per_unit() const { return div_ceil(unit_rows, part_rows); }
    int64_t count() const { return rows / unit_rows * per_unit() + div_ceil(rows % unit_rows, part_rows); }
    // As many parts of whole units as `bytes` of workspace hold, at least one unit's.
    int64_t at_once(int64_t bytes, int64_t bytes_per_part) const {
        const int64_t units = bytes / bytes_per_part / per_unit();
        return (units > 1 ? units : 1) * per_unit();
    }
};

// The rows of one part.
struct PartRows {
    int64_t begin, end;
    __device__ PartRows(const Parts& parts, int64_t part) {
        const int64_t per_unit = (parts.unit_rows + parts.part_rows - 1) / parts.part_rows, unit = part / per_unit;
        begin = unit * parts.unit_rows + part % per_unit * parts.part_rows;
        end = begin + parts.part_rows;
        if (end > (unit + 1) * parts.unit_rows) end = (unit + 1) * parts.unit_rows;
        if (end > parts.rows) end = parts.rows;
    }
};

// total[c] += for every unit in ascending order: the sum of its parts, also in ascending order; c < width. partials (parts,stride).
void fold_units(float* total, const float* partials, int64_t parts, int64_t per_unit, int64_t stride, int64_t width, Stream& stream);

}  // namespace traincu::gpu
