#!/usr/bin/env bash
# Tests for hours what depends on luck, with a new seed in each round. It wants a tree that scripts/test.sh has built.
#
#   scripts/soak.sh [--hours N] [WHAT...]     N: default 8, as 0.5 for half an hour; WHAT, default all:
#     seeds    every test, with other inputs
#     kills    processes killed, stopped and hung at random moments, more often than the usual tests do
#     faults   every call that fails or is the last one, and damaged files
#     streams  streams that run late, and every call that orders them left out in turn
#     nccl     many ranks by NCCL instead of MPI, on its stand-in, with streams that run at once, late, and in a seed's order
#     processors  a portable build at each level of x86-64 and on emulated processors, and ARM64, cross-compiled (Debian's
#              g++-aarch64-linux-gnu, qemu-user)
#     gpu      both calls of scripts/gpu_check.sh, rehearsed without a GPU
#     long     a needle is found among 2048 tokens after a recipe's last stage, and not before; three seeds, always the same
#     curation  bad input of data/curate.py at full size: 100,000 empty files, a document of 300 MB in one line; a run that is killed
#              at every point
#     fuzz     every reader of foreign files, an hour's tenth each
#
# What failed is in build/soak/ROUND-WHAT.log with the seed that repeats it (LLMC_TEST_SEED). The last line counts: N passed,
# N failed. Exit codes: 0 nothing failed; 1 something did; 2 bad usage.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

VENV=${VENV:-.venv}
JOBS=${JOBS:-$(nproc)}
HOURS=8
ALL=(seeds kills faults streams nccl processors gpu long curation fuzz)
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} LLMC_SOAK=1

say() { printf 'soak: %s\n' "$*"; }
fail() {
    say "$*" >&2
    exit 2
}

run_pytest() { OMP_NUM_THREADS=1 "$VENV/bin/python" -m pytest "${WHERE:-tests}" -q -rs -n "$JOBS" --dist worksteal "$@"; }

run_nccl() {
    local mode status=0
    make -s -j "$JOBS" TARGET=cuda-on-cpu PRECISION=fp32 || return
    make -s -j "$JOBS" TARGET=cuda-on-cpu PRECISION=fp32 SANITIZE=thread || return
    export LLMC_BUILD=build/cuda-on-cpu:build/cuda-on-cpu-fp32
    for mode in eager lazy "random:$LLMC_TEST_SEED"; do
        LLMC_HOST_STREAMS=$mode run_pytest -k "(test_ranks_ or test_comm or test_start) and not nccl" || status=1
    done
    unset LLMC_BUILD
    return "$status"
}

# The kernels' tests too, on a processor that seems to have AVX2 alone.
run_processors() {
    run_pytest -k test_processor || return
    GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX512F,-AVX512VL LLMC_BUILD=build/cpu-portable WHERE=tests/kernels \
        run_pytest -k "not fp32"
}

# Where tools of CUDA are missing, some stages are not run, which is exit code 3.
run_gpu() {
    local call status=0 code
    for call in first second; do
        code=0
        env -u LLMC_SOAK DEADLINE=1200 SEED="$LLMC_TEST_SEED" OUT=build/soak/gpu \
            scripts/gpu_check.sh "$call" --target cuda-on-cpu || code=$?
        [ $code = 0 ] || [ $code = 3 ] || status=1
    done
    return $status
}

run_one() {
    case $1 in
        seeds) run_pytest ;;
        kills) run_pytest -k "kill or killed or stopped or hung or signal" ;;
        faults) run_pytest -k "fault or fails or wrong or damage or broken or refused" ;;
        streams) run_pytest -k test_streams ;;
        nccl) run_nccl ;;
        processors) run_processors ;;
        gpu) run_gpu ;;
        long) rm -rf build/soak/long && "$VENV/bin/python" dev/bench/long_context.py --output build/soak/long ;;
        curation) WHERE=tests/data/curate run_pytest -k "test_bad_input or killed" ;;
        fuzz) scripts/fuzz.sh --seconds 360 ;;
    esac
}

if [ "${1:-}" = --hours ]; then
    HOURS=${2:-}
    shift 2 || true
fi
[[ $HOURS =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "--hours $HOURS: expected a number"
[ $# -gt 0 ] || set -- "${ALL[@]}"
for what in "$@"; do
    [[ " ${ALL[*]} " == *" $what "* ]] || fail "$what: expected one of: ${ALL[*]}"
done

END=$(awk "BEGIN { print int($HOURS * 3600) }")
PASSED=0 FAILED=0 ROUND=0
mkdir -p build/soak
while [ "$SECONDS" -lt "$END" ]; do
    ROUND=$((ROUND + 1))
    for what in "$@"; do
        [ "$SECONDS" -lt "$END" ] || break
        export LLMC_TEST_SEED=$((RANDOM * 32768 + RANDOM))
        log=build/soak/$ROUND-$what.log
        result=passed
        run_one "$what" >"$log" 2>&1 || result=failed
        say "round $ROUND, $what, LLMC_TEST_SEED=$LLMC_TEST_SEED: $result (at $SECONDS s), $(tail -n 1 "$log")"
        if [ "$result" = passed ]; then PASSED=$((PASSED + 1)); else FAILED=$((FAILED + 1)); fi
    done
done
printf '%d passed, %d failed\n' "$PASSED" "$FAILED"
[ "$FAILED" = 0 ]
