#!/bin/sh
# Is there a clang with libFuzzer and the sanitizers? 0, or 2 with what to install.
probe=$(mktemp -d)
trap 'rm -rf "$probe"' EXIT
echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' > "$probe/probe.cpp"
# shellcheck disable=SC2086  # FUZZ_CXX may hold a wrapper before the compiler
${FUZZ_CXX:-clang++} -std=c++20 -fsanitize=fuzzer,address,undefined "$probe/probe.cpp" -o "$probe/probe" > "$probe/said" 2>&1 && exit 0
{
    echo "fuzzing needs clang with libFuzzer and its sanitizers; on Debian and Ubuntu:"
    echo "    sudo apt-get install -y --no-install-recommends clang libclang-rt-dev     (Debian 12: clang libclang-rt-14-dev)"
    echo "another compiler: make fuzz FUZZ_CXX=clang++-17. This one said: $(head -n 1 "$probe/said")"
} >&2
exit 2
