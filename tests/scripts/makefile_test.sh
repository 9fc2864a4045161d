#!/bin/sh
# What the Makefile finds of the CUDA toolkit and NCCL: nothing set, CUDA_HOME or NVCC set, none there; and of MPI. With stand-ins for nvcc, mpicc.
# shellcheck disable=SC2016  # the stand-ins expand their own variables
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
unset CUDA_HOME NVCC CUDA NCCL ARCH MPI MPICC PKG_CONFIG_PATH MAKEFLAGS MAKELEVEL
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

run make CUDA=1 CUDA_HOME="$tmp/toolkit" NCCL=0 found;                  expect "makefile: NCCL=0 leaves it" 0 '^NCCL .*not used: NCCL=0'
run make CUDA=1 CUDA_HOME="$tmp/toolkit" CXX='g++ -nostdinc -nostdinc++' found; expect "makefile: no NCCL, and that is said" 2 '^NCCL .*not found: ranks send through MPI.*libnccl-dev'
run make CUDA=1 CUDA_HOME="$tmp/toolkit" CXX='g++ -nostdinc -nostdinc++' NCCL=1 found; expect "makefile: NCCL=1 without NCCL is refused, with a remedy" 2 'NCCL=1 needs nccl.h' 'NCCL=0'
mkdir "$tmp/toolkit/include"
: > "$tmp/toolkit/include/nccl.h"
run make CUDA=1 CUDA_HOME="$tmp/toolkit" CXX='g++ -nostdinc -nostdinc++' found; expect "makefile: a toolkit with NCCL" 2 '^NCCL .*found: GPUs send to each other'

mkdir "$tmp/mpi"
: > "$tmp/mpi/mpi.h"
printf '#!/bin/sh\ncase $1 in *compile) echo "-I%s" ;; *link) echo "-lmpi" ;; esac\n' "$tmp/mpi" > "$tmp/mpi/mpicc"
chmod +x "$tmp/mpi/mpicc"
run make MPICC="$tmp/mpi/mpicc" found;                                 expect "makefile: MPI is where its compiler wrapper says" 0 '^MPI .*found: mpirun -np 4'
run make MPICC="$tmp/mpi/mpicc" MPI=0 found;                           expect "makefile: MPI=0 is one rank" 0 '^MPI .*not used: MPI=0: one rank'
run env PKG_CONFIG_LIBDIR="$tmp" make MPICC=no-such-mpicc found;       expect "makefile: so is no MPI, and that is said" 0 '^MPI .*not found: one rank.*setup.sh'
rm "$tmp/mpi/mpi.h"
run make MPICC="$tmp/mpi/mpicc" found;                                 expect "makefile: a wrapper without a header is no MPI" 0 '^MPI .*not found'
finish
