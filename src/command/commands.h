// The commands of ./train besides training itself. Each gets the arguments after its name, and returns the exit code;
// what goes wrong is thrown as an Error.
#pragma once

#include <map>
#include <string>

namespace traincu {

class Mesh;

int tokenize_command(int argc, char** argv);          // text to token shards
int tokenize_choices_command(int argc, char** argv);  // tokenize --multiple-choice: questions to a set for eval
int generate_command(int argc, char** argv);          // a prompt continued by a checkpoint
int eval_command(int argc, char** argv);              // loss, perplexity, bits per byte of a checkpoint on shards
int export_command(int argc, char** argv);            // a model for transformers, lm-eval or llm.c
int inspect_command(int argc, char** argv);           // what is in a shard, a safetensors file, a checkpoint
int plan_command(int argc, char** argv);              // memory and speed of a run before it starts
int simulate_command(int argc, char** argv);          // a step on a cluster that is not here, by a model of its links
int bench_command(int argc, char** argv);             // every kernel beside its roofline
int compare_numerics_command(int argc, char** argv);  // a model in each precision beside f64; where runs part
int bench_attention_command(int argc, char** argv);   // bench attention: biases and gates, time and memory
int report_command(int argc, char** argv);            // curves of runs as an HTML page, beside a reference
// what stays equal bit by bit under changed circumstances, on the mesh's ranks, which it starts
int verify_determinism_command(int argc, char** argv, Mesh& mesh);

// All of them by name; what ./train alone prints. The mesh: of one rank, not started.
const std::map<std::string, int (*)(int, char**, Mesh&)>& commands();
extern const char* const examples;

}  // namespace traincu
