// A reference curve: its steps ascend, its values are finite, and any run can be judged by it.
#include "src/report/curves.h"

#include <cmath>

#include "tests/fuzz/input.h"

namespace traincu::fuzz {

bool fuzz_curve(Bytes input) {
    return accepted([&] {
        const ReferenceCurve curve = read_curve_csv(put_file("curve.csv", text_of(input)));
        for (const Curve* one : {&curve.val_loss, &curve.train_loss, &curve.lr, &curve.grad_norm, &curve.hellaswag}) {
            ENSURE(one->x.size() == one->y.size());
            for (size_t i = 0; i < one->x.size(); i++)
                ENSURE(std::isfinite(one->y[i]) && (i == 0 ? one->x[i] >= 0 : one->x[i] > one->x[i - 1]));
            if (!one->empty()) ENSURE(interpolate(*one, one->x.back()) == one->y.back() && one->x.back() <= curve.last_step());
        }
        // A run with the same losses lies on it.
        RunCurves run;
        for (size_t i = 0; i < curve.val_loss.x.size(); i++)
            if (curve.val_loss.x[i] == std::floor(curve.val_loss.x[i]))
                run.validations.push_back({static_cast<int64_t>(curve.val_loss.x[i]), curve.val_loss.y[i], -1, 0});
        for (int64_t step : {1, 50, 1'000'000}) {
            StepRecord& record = run.steps.emplace_back();
            record.step = step, record.loss = 3;
        }
        accepted([&] {
            const Comparison comparison = compare(run, curve, 0.02);
            if (comparison.by_validation) ENSURE(comparison.within && comparison.worst == 0);
            ENSURE(!verdict(comparison).empty() && !how_judged(comparison, curve).empty());
        });
    });
}

Seeds curve_seeds() {
    return {
        "step,val_loss,train_loss,lr,grad_norm\n0,5.5452,,,\n1,,5.5411,0.0001,2.31\n250,3.2,3.31,0.001,0.5\n500,2.91,2.89,0.0002,0.4\n",
        "step,train_loss\n1,5.5\n2,5\n3,4.75\n\n100,3.5\r\n",
        "val_loss,step,hellaswag,unknown\n3.5,10,0.27,x\n3.25,20,0.29,y\n",
        "step\n",
    };
}

}  // namespace traincu::fuzz
