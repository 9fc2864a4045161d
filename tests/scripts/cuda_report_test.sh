#!/bin/sh
# cuda_report.sh on made-up words of an assembler: what it reads out of them, and what it complains about. Needs no nvcc.
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
command -v c++filt > /dev/null || { skip "cuda_report" "c++filt is not installed"; finish; }
cd "$tmp" || exit 1

printf '#!/bin/sh\necho "Cuda compilation tools, release ${RELEASE:-13.0}, V13.0.48"\n' > nvcc
chmod +x nvcc
report() { run env NVCC="$tmp/nvcc" sh "$repo/scripts/cuda_report.sh" --table table.txt "$@"; }

# kernel SYMBOL ARCH STACK STORES LOADS "USED"
kernel() {
    printf "ptxas info    : Compiling entry function '%s' for '%s'\nptxas info    : Function properties for %s\n" "$1" "$2" "$1"
    printf '    %s bytes stack frame, %s bytes spill stores, %s bytes spill loads\nptxas info    : Used %s\nptxas info    : Compile time = 9.0 ms\n' "$3" "$4" "$5" "$6"
}
softmax=_ZN7traincu3gpu14softmax_kernelINS_4bf16ELi8EEEvPT_NS0_5SizesE  # void traincu::gpu::softmax_kernel<traincu::bf16, 8>(traincu::bf16*, traincu::gpu::Sizes)
sum=_ZN7traincu3gpu10sum_kernelEPKfPf
made() { { echo 'ptxas info    : 0 bytes gmem'; kernel $softmax sm_90a 0 0 0 "$1 registers, used 1 barriers, $2 bytes smem, 400 bytes cmem[0]"; } > softmax.log; }
made 64 2048
kernel $sum sm_90a 0 0 0 '20 registers, used 0 barriers' > sum.log
kernel $sum sm_80 16 4 8 '22 registers, used 0 barriers, 384 bytes cmem[0]' > sum80.log

report softmax.log sum.log sum80.log;           expect "cuda_report: prints" 0
awk '{ $1 = $1 } 1' out > got.txt
cat > want.txt <<'END'
arch registers shared stack spill_stores spill_loads kernel
sm_90a 64 2048 0 0 0 softmax_kernel<bf16, 8>
sm_80 22 0 16 4 8 sum_kernel
sm_90a 20 0 0 0 0 sum_kernel
END
holds "cuda_report: every figure, names without argument lists" cmp got.txt want.txt

report --check softmax.log;                      expect "cuda_report: --check without a table" 2
report --update softmax.log sum.log;             expect "cuda_report: --update" 0
report --check softmax.log sum.log;              expect "cuda_report: nothing changed" 0
report --check sum80.log;                        expect "cuda_report: a kernel that the table lacks" 1 'not in the table: sm_80 sum_kernel'
report --update sum80.log softmax.log sum.log;   expect "cuda_report: another architecture joins the table" 0
report --check sum80.log;                        expect "cuda_report: only the architectures in the logs are compared" 0
made 65 2048; report --check softmax.log;        expect "cuda_report: one register more" 1 'registers of softmax_kernel<bf16, 8> on sm_90a rose from 64 to 65'
made 64 2052; report --check softmax.log;        expect "cuda_report: more shared memory" 1
made 60 1024; report --check softmax.log;        expect "cuda_report: less is no complaint" 0 '2 figures fell, 1 kernels are gone'
made 64 2048
for rise in "8 0 0" "0 4 0" "0 0 4"; do
    # shellcheck disable=SC2086  # three numbers
    kernel $sum sm_90a $rise '20 registers' > worse.log
    report --check softmax.log worse.log;        expect "cuda_report: stack, stores or loads of $rise" 1
done

# a function that is called, not inlined: its stack is added to the kernel's
{ kernel $sum sm_90a 8 0 0 '20 registers' | sed '3a\
ptxas info    : Function properties for _Z6helperf\
    32 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads'; } > calls.log
report --check calls.log;                        expect "cuda_report: the stack of a function that is called" 1 'stack of sum_kernel on sm_90a rose from 0 to 40'

{ cat sum.log; echo "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources in function '$sum'"; } > serial.log
report --check serial.log;                       expect "cuda_report: serialised wgmma" 1
export RELEASE=12.8
report --check serial.log;                       expect "cuda_report: under another compiler too" 1
made 99 2048; report --check softmax.log;        expect "cuda_report: another compiler's figures are not compared" 0 'not compared: the table was made with nvcc 13.0, this is nvcc 12.8'
unset RELEASE
made 64 2048; report --update softmax.log
report --check softmax.log sum80.log;            expect "cuda_report: --update leaves other architectures alone" 0
holds "cuda_report: and drops what is gone" sh -c '! grep -q "sm_90a.*sum_kernel" table.txt'

echo 'nvcc warning : something' > empty.log
report empty.log;                                expect "cuda_report: a log without kernels" 2
report --check;                                  expect "cuda_report: no log" 2
report absent.log;                               expect "cuda_report: a log that is not there" 2
report --wrong softmax.log;                      expect "cuda_report: an unknown argument" 2

# ---- the committed table
# The sums of wide heads fill the registers of the tiled backward: what a few bytes cost there is for a card to tell.
holds "cuda_report: in the committed table no kernel spills up to sm_90a, but the tiled backward of wide heads, 32 bytes at most" awk '
    FNR > 2 && $1 ~ /^sm_[89]/ && $5 + $6 > 0 && !($7 ~ /^attention_tiled_(dkv_kernel<(96|128|256)>|dq_kernel<128>)$/ && $5 <= 32) { bad = 1 }
    END { exit bad }' "$repo/tests/cuda/report.txt"
finish
