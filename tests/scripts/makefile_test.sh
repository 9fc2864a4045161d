#!/bin/sh
# What the Makefile finds of the CUDA toolkit: nothing set, CUDA_HOME or NVCC set, none there. With a stand-in for nvcc.
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
unset CUDA_HOME NVCC CUDA ARCH MAKEFLAGS MAKELEVEL
cd "$repo" || exit 1
mkdir -p "$tmp/toolkit/bin"
printf '#!/bin/sh\necho "Cuda compilation tools, release 12.9, V12.9.1"\n' > "$tmp/toolkit/bin/nvcc"
chmod +x "$tmp/toolkit/bin/nvcc"

run make found;                                                        expect "makefile: finds what is there with nothing set" 0 '^CUDA'
run env CUDA_HOME="$tmp/toolkit" make CUDA=1 ARCH=80 found;            expect "makefile: the toolkit that CUDA_HOME names" 0 "^CUDA .*$tmp/toolkit/bin/nvcc 12.9, code for sm_80"
run make CUDA=1 CUDA_HOME="$tmp/toolkit" found;                        expect "makefile: also where it is given to make" 0 "^CUDA .*$tmp/toolkit/bin/nvcc 12.9"
run env PATH="$tmp/toolkit/bin:$PATH" NVCC=nvcc make CUDA=1 found;     expect "makefile: the compiler that NVCC names" 0 '^CUDA .*nvcc 12.9, code for'
run make CUDA=1 NVCC= found;                                           expect "makefile: CUDA=1 without nvcc is refused, with a remedy" 2 'CUDA=1 needs nvcc' 'CUDA_HOME='
run make CXX='g++ -nostdinc -nostdinc++' found;                        expect "makefile: what is not there is said to be missing, with a remedy" 2 '^oneDNN .*not found' '^BPE .*not found' '^missing .*cli11.*setup.sh'
run make CUDA=0 found;                                                 expect "makefile: CUDA=0 is content" 0 '^CUDA'
finish
