// Atomics and fences of CUDA. One thread runs at a time, so an atomic is a plain read and write, which the checks know to be atomic.
#include <cuda_runtime.h>

#include "tests/simt/access.h"
#include "tests/simt/runner.h"

using traincu::simt::atomic_access;

namespace {
template <class T, class F>
T update(T* address, F&& next, const void* pc) {
    atomic_access(address, sizeof(T), pc);
    const T old = *address;
    *address = next(old);
    return old;
}
}  // namespace

#define PC __builtin_return_address(0)
int atomicAdd(int* p, int v) {
    return update(
        p, [=](int x) { return static_cast<int>(static_cast<unsigned>(x) + static_cast<unsigned>(v)); }, PC);
}
unsigned atomicAdd(unsigned* p, unsigned v) {
    return update(
        p, [=](unsigned x) { return x + v; }, PC);
}
unsigned long long atomicAdd(unsigned long long* p, unsigned long long v) {
    return update(
        p, [=](unsigned long long x) { return x + v; }, PC);
}
float atomicAdd(float* p, float v) {
    return update(
        p, [=](float x) { return x + v; }, PC);
}
double atomicAdd(double* p, double v) {
    return update(
        p, [=](double x) { return x + v; }, PC);
}
int atomicMax(int* p, int v) {
    return update(
        p, [=](int x) { return x > v ? x : v; }, PC);
}
unsigned atomicMax(unsigned* p, unsigned v) {
    return update(
        p, [=](unsigned x) { return x > v ? x : v; }, PC);
}
int atomicMin(int* p, int v) {
    return update(
        p, [=](int x) { return x < v ? x : v; }, PC);
}
unsigned atomicMin(unsigned* p, unsigned v) {
    return update(
        p, [=](unsigned x) { return x < v ? x : v; }, PC);
}
int atomicExch(int* p, int v) {
    return update(
        p, [=](int) { return v; }, PC);
}
unsigned atomicExch(unsigned* p, unsigned v) {
    return update(
        p, [=](unsigned) { return v; }, PC);
}
int atomicCAS(int* p, int compare, int v) {
    return update(
        p, [=](int x) { return x == compare ? v : x; }, PC);
}
unsigned atomicCAS(unsigned* p, unsigned compare, unsigned v) {
    return update(
        p, [=](unsigned x) { return x == compare ? v : x; }, PC);
}
unsigned long long atomicCAS(unsigned long long* p, unsigned long long compare, unsigned long long v) {
    return update(
        p, [=](unsigned long long x) { return x == compare ? v : x; }, PC);
}
unsigned atomicInc(unsigned* p, unsigned limit) {
    return update(
        p, [=](unsigned x) { return x >= limit ? 0 : x + 1; }, PC);
}
unsigned atomicOr(unsigned* p, unsigned v) {
    return update(
        p, [=](unsigned x) { return x | v; }, PC);
}
#undef PC

void __threadfence() { traincu::simt::fence(); }
void __threadfence_block() {}

float __fmul_rn(float x, float y) { return x * y; }
float __fadd_rn(float x, float y) { return x + y; }
float __fsub_rn(float x, float y) { return x - y; }
double __dmul_rn(double x, double y) { return x * y; }
double __dadd_rn(double x, double y) { return x + y; }
