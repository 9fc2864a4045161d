#include "src/model/init.h"

#include "src/base/philox.h"

namespace traincu {

void init_weights(Tensor flat, const ParamTable& table, uint64_t seed) {
    Random random{seed, RandomStream::init};
    dispatch_real(flat.dtype, [&](auto zero) {
        using T = decltype(zero);
        for (size_t r = 0; r < table.rows.size(); r++) {
            const ParamRow& row = table.rows[r];
            T* w = flat.as<T>() + row.offset;
            const int64_t used = row.used_numel();
            for (int64_t i = used; i < row.numel(); i++) w[i] = T(0);  // the padded vocabulary
#pragma omp parallel for schedule(static)
            for (int64_t i = 0; i < used; i++) {
                switch (row.init) {
                    case ParamInit::normal:
                        w[i] = static_cast<T>(row.init_std * random.normal(static_cast<uint32_t>(r), static_cast<uint64_t>(i)));
                        break;
                    case ParamInit::ones:
                        w[i] = T(1);
                        break;
                    case ParamInit::zeros:
                    case ParamInit::given:
                        w[i] = T(0);
                        break;
                }
            }
        }
    });
}

}  // namespace traincu
