#include "src/config/precision.h"

#include <map>

#include "src/config/options.h"

namespace traincu {

const char* name_of(WeightClass weight_class) {
    static const char* names[n_weight_classes] = {"embedding", "lm_head", "qkv",  "attention_out", "fc",
                                                  "mlp_out",   "norm",    "bias", "scores"};
    return names[static_cast<size_t>(weight_class)];
}

Precision precision_named(const std::string& name) {
    if (name == "fp32") return Dtype::f32;
    Precision precision(Dtype::bf16);
    if (name == "bf16-sr") precision.beside = Beside::nothing;
    if (name == "layercast") {
        precision.compute = Dtype::f32;
        for (WeightClass c : {WeightClass::norm, WeightClass::bias, WeightClass::scores})
            precision.stored[static_cast<size_t>(c)] = Dtype::f32;
    }
    ENSURE(name == "bf16" || name == "bf16-sr" || name == "layercast");
    return precision;
}

namespace {

[[noreturn]] void refuse(const std::string& why, const std::string& remedy) { throw Error(ExitCode::usage, why, remedy); }

std::vector<std::string> split_at(const std::string& text, char separator) {
    std::vector<std::string> parts(1);
    for (char c : text)
        if (c == separator)
            parts.emplace_back();
        else
            parts.back() += c;
    return parts;
}

// The classes that a name of --precision-of stands for.
std::vector<WeightClass> classes_named(const std::string& name) {
    std::vector<WeightClass> classes;
    for (int i = 0; i < n_weight_classes; i++) {
        const WeightClass c = static_cast<WeightClass>(i);
        if (name == name_of(c) || (name == "linear" && is_linear(c))) classes.push_back(c);
    }
    return classes;
}

// May `c` be stored in `type` under this mode? The reason if not.
void check(const std::string& mode, WeightClass c, Dtype type, const std::string& item) {
    if (mode == "fp32")
        refuse("--precision-of " + item + ": --precision fp32 stores and multiplies all weights in fp32",
               "leave it out, or --precision layercast, which computes in fp32 from weights of 16 bits: --precision layercast "
               "--precision-of " +
                   item);
    if (mode == "layercast") return;
    if (type == Dtype::f16)
        refuse("--precision-of " + item + ": kernels in bf16 would round weights of fp16 once more",
               "use bf16 there, or --precision layercast --precision-of " + item + ", which computes in fp32");
    if (mode == "bf16" && type == Dtype::f32 && !is_table(c))
        refuse("--precision-of " + item + ": the masters of --precision bf16 are fp32 already, and its kernels read these weights in bf16",
               "leave it out, or --precision layercast --precision-of " + item + ", which computes in fp32");
}

}  // namespace

Precision precision_of(const Options& o) {
    static const std::map<std::string, Dtype> types = {{"fp32", Dtype::f32}, {"bf16", Dtype::bf16}, {"fp16", Dtype::f16}};
    Precision precision = precision_named(o.precision);
    bool head_named = false;
    if (!o.precision_of.empty())
        for (const std::string& item : split_at(o.precision_of, ',')) {
            const std::vector<std::string> sides = split_at(item, '=');
            const std::vector<WeightClass> classes = classes_named(sides[0]);
            if (sides.size() != 2 || classes.empty() || !types.contains(sides[1]))
                refuse("--precision-of: '" + item + "' is not CLASS=TYPE",
                       "classes are embedding, lm_head, linear (or qkv, attention_out, fc, mlp_out), norm, bias, scores; types fp32, bf16, "
                       "fp16; "
                       "several are separated by commas: lm_head=fp32,embedding=fp32");
            const Dtype type = types.at(sides[1]);
            for (WeightClass c : classes) {
                if (type != precision.stored_in(c)) check(o.precision, c, type, item);
                precision.stored[static_cast<size_t>(c)] = type;
                head_named = head_named || c == WeightClass::lm_head;
            }
        }
    if (o.tie_embeddings) {
        Dtype& head = precision.stored[static_cast<size_t>(WeightClass::lm_head)];
        const Dtype embedding = precision.stored_in(WeightClass::embedding);
        if (head_named && head != embedding)
            refuse("--precision-of lm_head: the head of this model is its embedding table (--tie-embeddings)",
                   "name both alike, embedding=fp32,lm_head=fp32, or give the head a table of its own: --tie-embeddings 0");
        head = embedding;
    }
    precision.linear_as_stored = o.fp32_products == "bf16x2" || o.fp32_products == "bf16x3";
    if (o.master_weights == "split") {
        if (precision.beside != Beside::master)
            refuse("--master-weights split: --precision " + o.precision + " keeps no masters beside its weights",
                   "leave it out, or --precision layercast or bf16");
        for (Dtype type : precision.stored)
            if (type == Dtype::f16)
                refuse("--master-weights split needs weights in bf16: the upper half of an fp32 is a bf16, not an fp16",
                       "leave it out, or store them in bf16");
        precision.beside = Beside::lower_half;
    }
    if (o.ranks > 1 && o.quant_weights != "none" && o.quant_weights != "auto") {
        for (Dtype type : precision.stored)
            if (type != precision.stored[0] || type == Dtype::f16)
                refuse("--quant-weights " + o.quant_weights + " sends all weights in one form, and here they are stored in several types",
                       "choose --precision bf16 or fp32, without --precision-of");
        if (o.precision == "bf16-sr" || o.master_weights == "split")
            refuse("--quant-weights " + o.quant_weights + " brings weights to their masters, and " +
                       (o.precision == "bf16-sr" ? "--precision bf16-sr keeps none" : "--master-weights split has them in the weights"),
                   "choose --precision bf16");
        precision.beside = Beside::master, precision.follow_masters = true;
    }
    return precision;
}

}  // namespace traincu
