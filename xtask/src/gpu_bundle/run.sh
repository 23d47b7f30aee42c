#!/usr/bin/env bash
# Runs the attention kernels' tests and benchmark on a machine with an NVIDIA driver.
#
#   ./run.sh [--results DIR] [demo] [suite] [sanitizer] [bench] [peers] [serving] [record]   default: all but the last
#
# Each step's output goes to DIR/STEP.log as well (default: ./results). The exit status is 0 when every step passed.
# sanitizer needs compute-sanitizer (on the PATH, or below CUDA_HOME or /usr/local/cuda); without it the step is skipped and
# says so. peers, the comparison with other libraries, is skipped without a python3 whose PyTorch sees the GPU; PEERS=--quick
# makes it shorter, and DIR/peers.json, .svg and .png hold its results. serving is the same of packed sequences and of decoding
# steps, with DIR/varlen.json and DIR/decode.json. record writes DIR/forward.safetensors, the answers to
# the cases of the simulator's list, for the simulator to be compared with.
set -uo pipefail
cd "$(dirname "$0")"

results=results
steps=()
while [ $# -gt 0 ]; do
    case $1 in
        --results) results=${2:?--results needs a folder}; shift ;;
        demo | suite | sanitizer | bench | peers | serving | record) steps+=("$1") ;;
        *) sed -n '2,11p' "$0" >&2; exit 64 ;;
    esac
    shift
done
[ ${#steps[@]} -gt 0 ] || steps=(demo suite sanitizer bench peers serving)
mkdir -p "$results"

# The kernels that lie beside the programs, not those that the programs carry.
export ATTN_KERNEL_DIR=$PWD/kernels

sanitizer=$(PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin command -v compute-sanitizer)
table=()
failures=0

# step NAME COMMAND...: runs it, shows and keeps its output, notes how it went.
step() {
    local name=$1 start=$SECONDS status
    shift
    printf '\n== %s\n' "$name"
    "$@" 2>&1 | tee "$results/${name// /-}.log"
    status=${PIPESTATUS[0]}
    if [ "$status" -eq 0 ]; then
        note "$name" passed $((SECONDS - start)) "$(grep -E 'passed, .*failed|ERROR SUMMARY|^time|^all lines' "$results/${name// /-}.log" | tail -n 1)"
    else
        note "$name" "FAILED ($status)" $((SECONDS - start)) "$(tail -n 1 "$results/${name// /-}.log")"
        failures=$((failures + 1))
    fi
}

note() {
    table+=("$(printf '%-22s %-12s %5s s  %s' "$@")")
}

for name in "${steps[@]}"; do
    case $name in
        demo) step demo ./attn-demo ;;
        suite) step suite ./attn-gpu-suite ;;
        bench)
            step 'launch path' ./attn-gpu-bench --launch-path
            step bench ./attn-gpu-bench --json "$results/bench.json"
            ;;
        peers | serving)
            if ! python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2> /dev/null; then
                note "$name" skipped 0 'there is no python3 whose PyTorch sees a GPU'
                continue
            fi
            if [ "$name" = serving ]; then
                step varlen python3 -Bu bench/varlen.py --out "$results/varlen"
                step decode python3 -Bu bench/decode.py --out "$results/decode"
                continue
            fi
            # Unquoted: several options are several words.
            step peers python3 -Bu bench/peers.py --out "$results/peers" ${PEERS:-}
            ;;
        record) step record ./attn-gpu-suite --simulator-list --record "$results/forward.safetensors" ;;
        sanitizer)
            if [ -z "$sanitizer" ]; then
                note sanitizer skipped 0 'there is no compute-sanitizer on this machine'
                continue
            fi
            for tool in memcheck racecheck synccheck; do
                step "sanitizer $tool" "$sanitizer" --tool "$tool" --error-exitcode 9 ./attn-gpu-suite --sanitizer
            done
            ;;
    esac
done

printf '\n'
printf '%s\n' "${table[@]}"
[ "$failures" -eq 0 ]
