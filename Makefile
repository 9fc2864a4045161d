# train.cu: `make` builds ./train and says what it found. Everything here can be overridden: make CXX=clang++ MARCH=native
# Targets: train (default) demo test test-all asan fuzz bench cuda format clean. `make help` explains them.

CXX      ?= g++
DEPS     ?= .deps#          libraries unpacked without root by scripts/setup.sh --prefix .deps
BUILD    ?= build
MARCH    ?= $(if $(filter x86_64,$(shell uname -m)),x86-64-v3)#  AVX2 and FMA; AVX-512 is found at run time
ONEDNN   ?= auto#           auto | 0; the same for PCRE2, UTF8PROC, MPI
MPI      ?= auto#           MPICC=mpicc tells where it is
NCCL     ?= auto#           0: ranks with a GPU each send through MPI and the hosts' memory
CUDA     ?= auto#           1: code for GPUs; auto: where nvcc and a GPU are here; 0: none
ARCH     ?= auto#           the GPUs' architectures: 90a, or '80 90a'; auto: that of the GPU that is here
JOBS     ?= $(shell nproc)
MAKEFLAGS += --no-print-directory -j$(JOBS)

TRIPLET  := $(shell $(CXX) -dumpmachine 2>/dev/null | sed 's/x86_64-linux-gnu/&/;s/-pc-/-/;s/-unknown-/-/')
DEPS_INC := $(DEPS)/usr/include
DEPS_LIB := $(DEPS)/usr/lib/$(TRIPLET)
CPPFLAGS += -I. $(if $(wildcard $(DEPS_INC)),-isystem $(DEPS_INC))
CXXFLAGS += -std=c++20 -g1 -fopenmp -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-unknown-pragmas $(if $(MARCH),-march=$(MARCH))
LDLIBS   += -fopenmp -pthread
ifneq ($(wildcard $(DEPS_LIB)),)
# old-style rpath: it also covers the libraries that oneDNN itself needs
LDFLAGS  += -L$(DEPS_LIB) -Wl,--disable-new-dtags -Wl,-rpath,'$$ORIGIN/$(DEPS_LIB)' -Wl,-rpath,$(abspath $(DEPS_LIB)) -Wl,-rpath-link,$(DEPS_LIB)
endif

# ---- what is installed: one preprocessor call answers for all headers
hash  := \#
probe := $(shell printf '%s\n' \
  '$(hash)if __has_include(<CLI/CLI.hpp>)' 'cli11' '$(hash)endif' \
  '$(hash)if __has_include(<nlohmann/json.hpp>)' 'json' '$(hash)endif' \
  '$(hash)if __has_include(<xxhash.h>)' 'xxhash' '$(hash)endif' \
  '$(hash)if __has_include(<doctest/doctest.h>)' 'doctest' '$(hash)endif' \
  '$(hash)if __has_include(<oneapi/dnnl/dnnl.hpp>)' 'onednn' '$(hash)endif' \
  '$(hash)if __has_include(<pcre2.h>)' 'pcre2' '$(hash)endif' \
  '$(hash)if __has_include(<utf8proc.h>)' 'utf8proc' '$(hash)endif' \
  | $(CXX) $(CPPFLAGS) -E -P -x c++ - 2>/dev/null)
missing := $(filter-out $(probe),cli11 json xxhash)
# each may be given and then says where the other is: NVCC at once, since a recursive one would ask for itself
ifeq ($(origin NVCC),undefined)
NVCC := $(firstword $(wildcard $(addsuffix /bin/nvcc,$(CUDA_HOME)) /usr/local/cuda/bin/nvcc) $(shell command -v nvcc 2>/dev/null))
endif
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(NVCC))
# "90": the compute capability of the GPU that is here; 9.0 and 10.0 have instructions of their own, called 90a and 100a
gpu_here := $(if $(NVCC),$(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | grep -E '^[0-9.]+$$' | tr -d . | sed -E 's/^(90|100)$$/\1a/'))

ifneq ($(filter onednn,$(probe)),)
ifneq ($(ONEDNN),0)
CPPFLAGS += -DTRAIN_HAS_ONEDNN
LDLIBS   += -ldnnl
has_onednn := yes
endif
endif
ifneq ($(filter pcre2,$(probe)),)
ifneq ($(PCRE2),0)
CPPFLAGS += -DTRAIN_HAS_PCRE2
LDLIBS   += -lpcre2-8
has_pcre2 := yes
endif
endif
ifneq ($(filter utf8proc,$(probe)),)
ifneq ($(UTF8PROC),0)
CPPFLAGS += -DTRAIN_HAS_UTF8PROC
LDLIBS   += -lutf8proc
has_utf8proc := yes
endif
endif
# MPI is where its own compiler wrapper says, or pkg-config
ifneq ($(MPI),0)
MPICC    ?= mpicc
mpi_cpp  := $(shell $(MPICC) --showme:compile 2>/dev/null || pkg-config --cflags ompi-c 2>/dev/null || pkg-config --cflags mpich 2>/dev/null)
mpi_lib  := $(shell $(MPICC) --showme:link 2>/dev/null || pkg-config --libs ompi-c 2>/dev/null || pkg-config --libs mpich 2>/dev/null)
has_mpi  := $(if $(mpi_lib),$(shell printf '$(hash)include <mpi.h>\n' | $(CXX) $(CPPFLAGS) $(mpi_cpp) -E -x c++ - >/dev/null 2>&1 && echo yes))
LDLIBS   += $(if $(has_mpi),$(mpi_lib))
endif
no_bpe := $(if $(has_pcre2),,libpcre2-dev) $(if $(has_utf8proc),,libutf8proc-dev)

# ---- the GPU's side
use_cuda := $(if $(filter 1,$(CUDA)),yes,$(if $(filter auto,$(CUDA)),$(if $(gpu_here),yes)))
archs    := $(if $(filter auto,$(ARCH)),$(or $(gpu_here),90a),$(ARCH))
cuda_src := $(wildcard kernels/*.cu)
cuda_dir := $(BUILD)/cuda/$(subst $(eval) ,_,$(archs))
NVCCFLAGS += -std=c++20 -O3 -I. --expt-relaxed-constexpr -lineinfo -Xptxas -v -Xcompiler -Wall $(foreach a,$(archs),-gencode arch=compute_$(a),code=sm_$(a))
cublaslt := $(if $(wildcard $(CUDA_HOME)/include/cublasLt.h),kernels/gemm_cublaslt.cpp)
# NCCL's header is in the toolkit, or where the compiler looks by itself; its library is loaded when it is needed. Only a build with CUDA has it.
nccl_src := src/parallel/comm_nccl.cpp src/parallel/nccl_watch.cpp
ifneq ($(NCCL),0)
has_nccl := $(if $(CUDA_HOME),$(shell printf '$(hash)include <nccl.h>\n' | $(CXX) $(CPPFLAGS) -idirafter $(CUDA_HOME)/include -E -x c++ - >/dev/null 2>&1 && echo yes))
endif
ifeq ($(use_cuda)$(NCCL)$(has_nccl),yes1)
$(error NCCL=1 needs nccl.h, in $(CUDA_HOME)/include or where the compiler looks: install libnccl-dev, or build with NCCL=0)
endif
cuda_obj := $(patsubst %,$(cuda_dir)/%.o,$(cuda_src) src/device/gpu.cpp $(cublaslt) $(if $(has_nccl),$(nccl_src) src/parallel/nccl_library.cpp))
cuda_lib := -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcudart_static $(if $(cublaslt),-lcublasLt) -ldl -lrt
ifeq ($(CUDA)$(NVCC),1)
$(error CUDA=1 needs nvcc, and there is none: install the CUDA toolkit, or say where it is with CUDA_HOME=/usr/local/cuda)
endif

# ---- what there is to build
kernel_src := $(filter-out kernels/gemm_cublaslt.cpp,$(wildcard kernels/*.cpp))
engine_src := $(filter-out src/device/gpu.cpp $(nccl_src) src/parallel/nccl_library.cpp,$(wildcard src/*/*.cpp))
test_src   := $(shell find tests -name '*_test.cpp' -not -path 'tests/simt/*' -not -path 'tests/nccl/*' 2>/dev/null) tests/main.cpp $(filter-out %/fuzzer.cpp %_test.cpp,$(wildcard tests/fuzz/*.cpp))
objects     = $(patsubst %,$(BUILD)/%.o,$(kernel_src) $(engine_src))
test_obj    = $(patsubst %,$(BUILD)/%.o,$(test_src))
# The tests of all that a GPU computes: with the runner of tests/simt they run on the CPU, with CUDA on a GPU.
device_test_obj = $(patsubst %,$(BUILD)/%.o,$(wildcard tests/kernels/*_test.cpp tests/device/*_test.cpp) tests/main.cpp)
# NCCL's stand-in, its tests, and the engine over it
nccl_standin    = $(nccl_src) $(filter-out tests/nccl/agreement.cpp,$(wildcard tests/nccl/*.cpp))
simt_obj        = $(patsubst %,$(BUILD)/simt/%.o,$(wildcard tests/simt/*.cpp) $(nccl_standin) $(cublaslt)) $(patsubst %,$(BUILD)/simt/%.o,$(cuda_src) $(wildcard tests/simt/*/*.cu kernels/ladder/*.cu))
TRAIN      ?= train#        the executable's name

.PHONY: all found help demo test test-all asan fuzz bench tokenizer_bench error_ladder cuda cuda-report cuda-check format clean FORCE
all: found $(TRAIN)

found:
	@echo "compiler  $(shell $(CXX) --version | head -1)  $(if $(MARCH),-march=$(MARCH))"
	@echo "oneDNN    $(if $(has_onednn),found: used for CPU matrix products,not found: our own product is used (for more speed: sh scripts/setup.sh$(comma) package libdnnl-dev))"
	@echo "BPE       $(if $(strip $(no_bpe)),$(strip $(no_bpe)) not found: $(if $(has_pcre2),no tokenizer.json with NFC can be read,no tokenizer.json can be read) (sh scripts/setup.sh),PCRE2 and utf8proc found: tokenizer.json is read)"
	@echo "MPI       $(if $(has_mpi),found: mpirun -np 4 ./train runs four ranks,$(if $(filter 0,$(MPI)),not used: MPI=0,not found): one rank only (for more: sh scripts/setup.sh$(comma) package libopenmpi-dev))"
ifeq ($(use_cuda),yes)
	@echo "NCCL      $(if $(has_nccl),found: GPUs send to each other,$(if $(filter 0,$(NCCL)),not used: NCCL=0,not found: ranks send through MPI and the hosts' memory (for more: package libnccl-dev)))"
	@echo "CUDA      $(NVCC) $(shell $(NVCC) --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')$(comma) code for$(archs:%= sm_%)"
else
	@echo "CUDA      $(if $(NVCC),$(NVCC) found$(comma) not used: $(if $(filter 0,$(CUDA)),CUDA=0,no GPU here (to build for one: make CUDA=1 ARCH=90a)),not found: no GPU can be used)"
endif
ifneq ($(missing),)
	@echo "missing   $(missing): run  sh scripts/setup.sh  (or, without root,  sh scripts/setup.sh --prefix .deps)" >&2; exit 1
endif
comma := ,

$(TRAIN): $(BUILD)/train.o $(objects) $(if $(use_cuda),$(cuda_obj)) | found
	@echo "link      $@"
	@$(CXX) $(CXXFLAGS) $(LDFLAGS) $(filter %.o,$^) $(LDLIBS) $(if $(use_cuda),$(cuda_lib)) -o $@
# With and without GPU code are two executables of one name: it is linked anew where the answer changed.
$(TRAIN): $(BUILD)/gpu_side
$(BUILD)/gpu_side: FORCE
	@mkdir -p $(@D)
	@echo '$(if $(use_cuda),$(cuda_dir))' | cmp -s - $@ || echo '$(if $(use_cuda),$(cuda_dir))' > $@

$(BUILD)/run_tests: $(test_obj) $(objects) | found
	@echo "link      $@"
	@$(CXX) $(CXXFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

# The same tests of everything that a GPU computes, three times: on the CPU's twins (above), on the kernels under the SIMT runner, on a GPU.
$(BUILD)/run_simt: $(device_test_obj) $(objects) $(simt_obj) | found
	@echo "link      $@"
	@$(CXX) $(CXXFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@
$(BUILD)/run_gpu: $(device_test_obj) $(objects) $(cuda_obj) $(patsubst %,$(cuda_dir)/%.o,$(wildcard kernels/ladder/*.cu)) | found
	@echo "link      $@"
	@$(CXX) $(CXXFLAGS) $(LDFLAGS) $^ $(LDLIBS) $(cuda_lib) -o $@
# ./train whose GPU is the runner: slow, for tests of what --device cuda does
$(BUILD)/train_simt: $(BUILD)/train.o $(objects) $(filter-out %cublaslt.cpp.o %_test.cpp.o,$(simt_obj)) | found
	@echo "link      $@"
	@$(CXX) $(CXXFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@
cuda: $(cuda_obj)
# Registers, shared memory, stack and spills of each kernel, for ARCH='80 86 89 90a 100 120': tests/cuda/report.txt is what is accepted
cuda-report cuda-check: $(cuda_src:%=$(cuda_dir)/%.o)
	@NVCC='$(NVCC)' sh scripts/cuda_report.sh $(if $(filter cuda-check,$@),--check,--update) $(cuda_src:%=$(cuda_dir)/%.o.log)
	@[ $@ = cuda-check ] || ! command -v python3 > /dev/null || python3 scripts/attention_prediction.py
$(cuda_dir)/%.cu.o: %.cu Makefile | found
	@mkdir -p $(@D)
	@echo "compile   $< for$(archs:%= sm_%)"
	@$(NVCC) -ccbin '$(lastword $(CXX))' $(NVCCFLAGS) -MMD -MP -c $< -o $@ 2> $@.log || { cat $@.log >&2; exit 1; }
	@grep -iE 'warning|C75[0-9][0-9]' $@.log >&2 || true
$(cuda_dir)/%.cpp.o: %.cpp Makefile | found
	@mkdir -p $(@D)
	@echo "compile   $<"
	@$(CXX) $(CPPFLAGS) -idirafter $(CUDA_HOME)/include -DTRAIN_CUDA_ARCHS='$(shell echo $(archs:%a=-%) | tr ' ' ,)' $(CXXFLAGS) -O2 -MMD -MP -c $< -o $@
$(BUILD)/simt/%.cpp.o: %.cpp Makefile | found
	@mkdir -p $(@D)
	@echo "compile   $< for the SIMT runner"
	@$(CXX) -Itests/simt/include -Itests/nccl/include $(CPPFLAGS) -idirafter $(CUDA_HOME)/include $(CXXFLAGS) -O2 -MMD -MP -c $< -o $@
$(BUILD)/simt/%.cu.o: %.cu Makefile | found
	@mkdir -p $(@D)
	@echo "compile   $< for the SIMT runner"
	@$(CXX) -Itests/simt/include $(CPPFLAGS) $(SIMT_FLAGS) -MMD -MP -x c++ -c $< -o $@
# -fsanitize=thread puts a call of the runner's before every load and store; ThreadSanitizer itself is not linked.
SIMT_FLAGS ?= -std=c++20 -O2 -g1 -fsanitize=thread --param tsan-instrument-func-entry-exit=0 -Wall -Wextra -Wno-unknown-pragmas -Wno-maybe-uninitialized $(if $(MARCH),-march=$(MARCH))

# The kernels are compiled for speed; -O3 is where GCC vectorises most.
$(BUILD)/kernels/%.cpp.o: OPTIMIZE = -O3
$(BUILD)/tests/%.cpp.o:   OPTIMIZE = -O1
$(BUILD)/src/command/%.cpp.o $(BUILD)/src/config/%.cpp.o: OPTIMIZE = -O1#  nothing here is hot, and CLI11's headers are large
# What knows about MPI is compiled anew where the answer changed.
mpi_obj := $(patsubst %,$(BUILD)/%.o,$(wildcard src/parallel/*.cpp) tests/device/comm_test.cpp)
$(mpi_obj): CPPFLAGS += $(if $(has_mpi),-DTRAIN_HAS_MPI $(mpi_cpp))
$(mpi_obj): $(BUILD)/mpi_side
$(BUILD)/mpi_side: FORCE
	@mkdir -p $(@D)
	@echo '$(if $(has_mpi),$(mpi_cpp))' | cmp -s - $@ || echo '$(if $(has_mpi),$(mpi_cpp))' > $@
OPTIMIZE = -O2
$(BUILD)/%.cpp.o: %.cpp Makefile | found
	@mkdir -p $(@D)
	@echo "compile   $<"
	@$(CXX) $(CPPFLAGS) $(CXXFLAGS) $(OPTIMIZE) -MMD -MP -c $< -o $@
$(BUILD)/train.o: train.cu Makefile | found
	@mkdir -p $(@D)
	@echo "compile   $<"
	@$(CXX) $(CPPFLAGS) $(CXXFLAGS) $(OPTIMIZE) -MMD -MP -x c++ -c $< -o $@

# The revision is compiled into one file, rebuilt when it changes.
$(BUILD)/src/base/version.cpp.o: CPPFLAGS += -DTRAIN_REVISION='"$(revision)"'
$(BUILD)/src/base/version.cpp.o: $(BUILD)/revision
revision := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
$(BUILD)/revision: FORCE
	@mkdir -p $(@D)
	@echo '$(revision)' | cmp -s - $@ || echo '$(revision)' > $@

demo: all
	sh scripts/demo.sh

# The two run side by side where there are cores; what the second says comes after the first.
test: all $(BUILD)/run_tests $(BUILD)/run_simt $(BUILD)/train_simt $(if $(NVCC),cuda-check)
	@$(BUILD)/run_simt --test-suite-exclude="long*" > $(BUILD)/run_simt.log 2>&1 & simt=$$!; status=0; \
	$(BUILD)/run_tests --test-suite-exclude="long*" || status=1; \
	wait $$simt || status=1; cat $(BUILD)/run_simt.log; exit $$status
	@status=0; for t in tests/scripts/*_test.sh; do sh $$t || status=1; done; exit $$status

test-all: all $(BUILD)/run_tests $(BUILD)/run_simt $(BUILD)/train_simt
	$(BUILD)/run_tests
	$(BUILD)/run_simt
	@if [ -n "$(NVCC)" ]; then $(MAKE) CUDA=1 ARCH='80 86 89 90a 100 120' cuda-check; else echo "skipped: kernels for GPUs (no nvcc)"; fi
	@status=0; for t in tests/scripts/*_test.sh; do sh $$t || status=1; done; exit $$status
	@if FUZZ_CXX='$(FUZZ_CXX)' sh tests/fuzz/check_clang.sh 2>/dev/null; then $(MAKE) fuzz; else echo "skipped: fuzzing ($(MAKE) fuzz says what it needs)"; fi

# The tests again under the address and undefined-behaviour sanitizers, in a build folder of their own.
asan:
	$(MAKE) BUILD=build/asan TRAIN=build/asan/train CXXFLAGS='$(CXXFLAGS) -fsanitize=address,undefined -fno-sanitize-recover=all' build/asan/run_tests build/asan/train
	TRAIN_BINARY=build/asan/train build/asan/run_tests --test-suite-exclude="long*"

# What reads untrusted input, searched by libFuzzer under the same sanitizers: see tests/fuzz/README.md
FUZZ_CXX     ?= clang++
FUZZ_SECONDS ?= 60#         for each target
FUZZ_TARGETS ?= all#        or some: 'shard log'
fuzz_build   := $(BUILD)/fuzz
fuzz_flags   := -std=c++20 -g1 -O1 -fno-omit-frame-pointer -Wall -Wextra -Wno-unknown-pragmas $(if $(MARCH),-march=$(MARCH)) \
                -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all
# without what needs OpenMP and reads no file
fuzz_src     := $(filter-out src/base/process.cpp src/data/bpe_trainer.cpp,$(wildcard $(addprefix src/,base/*.cpp config/*.cpp checkpoint/*.cpp data/*.cpp report/*.cpp))) \
                $(filter-out %_test.cpp,$(wildcard tests/fuzz/*.cpp)) $(addprefix src/,model/params.cpp model/weights.cpp optim/guard.cpp optim/optimizer.cpp \
                command/run_directory.cpp command/run_state.cpp device/stream.cpp device/transfer.cpp) $(addprefix kernels/,adamw.cpp copy.cpp guard.cpp reduce.cpp)
fuzz:
	@FUZZ_CXX='$(FUZZ_CXX)' sh tests/fuzz/check_clang.sh && $(MAKE) $(fuzz_build)/fuzz && sh tests/fuzz/run.sh $(fuzz_build) $(FUZZ_SECONDS) '$(FUZZ_TARGETS)'
$(fuzz_build)/fuzz: $(fuzz_src:%=$(fuzz_build)/%.o)
	@echo "link      $@"
	@$(FUZZ_CXX) $(fuzz_flags) -fsanitize=fuzzer $(LDFLAGS) $^ $(filter-out -ldnnl -fopenmp,$(LDLIBS)) -o $@
$(fuzz_build)/%.cpp.o: %.cpp Makefile
	@mkdir -p $(@D)
	@echo "compile   $< (for fuzzing)"
	@$(FUZZ_CXX) $(CPPFLAGS) $(fuzz_flags) -fsanitize=fuzzer-no-link -MMD -MP -c $< -o $@
$(fuzz_build)/src/base/version.cpp.o: CPPFLAGS := $(filter-out -DTRAIN_HAS_ONEDNN,$(CPPFLAGS)) -DTRAIN_REVISION='"fuzz"'

# Speed beside the processor's peak and, where asked for, beside PyTorch and llm.c: see tests/bench/bench.py
bench: all $(BUILD)/gemm_bench
	python3 tests/bench/bench.py $(BENCH_ARGS)
$(BUILD)/gemm_bench: $(BUILD)/tests/bench/gemm_bench.cpp.o $(BUILD)/kernels/gemm_cpu.cpp.o $(BUILD)/kernels/gemm_onednn.cpp.o $(BUILD)/src/plan/fma_peak.cpp.o $(BUILD)/src/base/error.cpp.o
	@echo "link      $@"
	@$(CXX) $(CXXFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@
tokenizer_bench error_ladder: %: $(BUILD)/%
$(BUILD)/tokenizer_bench $(BUILD)/error_ladder: $(BUILD)/%: $(BUILD)/tests/bench/%.cpp.o $(objects)
	@echo "link      $@"
	@$(CXX) $(CXXFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@
$(BUILD)/tests/bench/%.cpp.o: OPTIMIZE = -O3

format:
	clang-format -i train.cu $$(git ls-files '*.cpp' '*.h')

clean:
	rm -rf $(BUILD) train

help:
	@echo "make          build ./train            make test      every test that is quick"
	@echo "make demo     train on real text       make test-all  the long ones too"
	@echo "make asan     tests under sanitizers   make fuzz      search what breaks the readers (clang)"
	@echo "make format   clang-format             make bench     speed beside others"
	@echo "make CUDA=1 ARCH=90a                   with code for GPUs of that architecture (default: the GPU that is here)"
	@echo "make cuda-report | cuda-check          registers and spills of the GPU's kernels, beside the table in tests/cuda"
	@echo "variables: CXX MARCH=native ONEDNN=0 MPI=0 DEPS=.deps BUILD=build JOBS=2"

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
