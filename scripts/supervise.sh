#!/usr/bin/env bash
# Runs a training command, and restarts it from the last complete checkpoint after a fault (a lost node, a rank that was killed
# or hangs, a crash).
#
#   scripts/supervise.sh [--restarts K] [--ranks-after "4 2"] [--pause S] [--end-within S] [--log FILE] -- COMMAND...
#   scripts/supervise.sh --restarts 20 -- mpirun -np 8 build/cuda/train_llama3 ... --save-every 500 --resume auto
#
#   --restarts K        restarts at most K times, default 10
#   --ranks-after LIST  numbers of ranks for the first restart, the second and so on; the last number is kept. Each replaces the
#                       number after -np or -n in COMMAND
#   --pause S           waits S seconds before a restart, default 2; doubled after each one without a newer checkpoint, up to 300
#   --end-within S      kills COMMAND if it has not ended S seconds after its ranks reported a fault or all its children ended,
#                       default 60. On a network that was cut, mpirun would wait a quarter of an hour for a host that it cannot
#                       reach, and it may hang if a rank was killed while starting
#   --log FILE          appends what this script prints to FILE, with the time
#
# SIGTERM, SIGINT and SIGUSR1 go to COMMAND, which finishes its step and writes a checkpoint; then it is not restarted. mpirun
# passes SIGUSR1 to its ranks, but kills them a second after any other signal, so its first signal is always SIGUSR1.
# After three restarts in a row without a newer checkpoint this script gives up, as the fault repeats itself.
# Exit codes: 0 COMMAND ended normally; 2 bad usage, or COMMAND's code 2 (bad input, which no restart mends); 1 gave up after
# faults; 3 stopped by a signal while COMMAND was down, or COMMAND failed while stopping: the same command then continues from
# the newest checkpoint.
set -euo pipefail

MAX_PAUSE=300
MAX_WITHOUT_PROGRESS=3

RESTARTS=10
RANKS_AFTER=()
PAUSE=2
END_WITHIN=60
LOG=""
CHILD=""
STOPPED=""
TOLD="" # the running command has been sent a signal

# OpenMPI's mpirun notices an unreachable host by TCP's keepalive, by default only after minutes. With these settings: after 30 s
# of silence it sends a probe every 5 s, at most three. (While mpirun waits for an answer it sends none; see --end-within.)
export OMPI_MCA_oob_tcp_keepalive_time="${OMPI_MCA_oob_tcp_keepalive_time:-30}"
export OMPI_MCA_oob_tcp_keepalive_intvl="${OMPI_MCA_oob_tcp_keepalive_intvl:-5}"
export OMPI_MCA_oob_tcp_keepalive_probes="${OMPI_MCA_oob_tcp_keepalive_probes:-3}"

say() {
    printf 'supervise: %s\n' "$*" >&2
    if [ -n "$LOG" ]; then printf '%s %s\n' "$(date '+%F %T')" "$*" >>"$LOG" || true; fi
}

refuse() {
    printf 'supervise: %s\n' "$*" >&2
    exit 2
}

is_number() { case $1 in '' | *[!0-9]* | 0?* | ?????????*) return 1 ;; *) return 0 ;; esac; }

parse() {
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        case $1 in
        -h | --help) sed -n '2,/^set/{s/^# \{0,1\}//;/^set/!p}' "$0" && exit 0 ;;
        --version) printf 'supervise.sh %s\n' "$("$(dirname "$(readlink -f "$0")")/version.sh")" && exit 0 ;;
        esac
        [ $# -gt 1 ] || refuse "$1: expected a value, or -- and the command"
        case $1 in
        --restarts) RESTARTS=$2 ;;
        --ranks-after) read -ra RANKS_AFTER <<<"$2" ;;
        --pause) PAUSE=$2 ;;
        --end-within) END_WITHIN=$2 ;;
        --log) LOG=$2 ;;
        *) refuse "$1: expected --restarts, --ranks-after, --pause, --end-within, --log, or -- and the command" ;;
        esac
        shift 2
    done
    [ $# -gt 1 ] || refuse "expected -- and the command to run"
    shift
    COMMAND=("$@")
}

# index_of NAME...: sets INDEX to the place in COMMAND of the first of these words that a value follows; fails without one
index_of() {
    local name
    for ((INDEX = 0; INDEX + 1 < ${#COMMAND[@]}; INDEX++)); do
        for name in "$@"; do if [ "${COMMAND[INDEX]}" = "$name" ]; then return 0; fi; done
    done
    return 1
}

check() {
    is_number "$RESTARTS" || refuse "--restarts $RESTARTS: expected a number"
    is_number "$PAUSE" || refuse "--pause $PAUSE: expected a number of seconds"
    if ! is_number "$END_WITHIN" || [ "$END_WITHIN" = 0 ]; then
        refuse "--end-within $END_WITHIN: expected a number of seconds, 1 or more"
    fi
    local ranks
    for ranks in "${RANKS_AFTER[@]}"; do
        case $ranks in 0* | *[!0-9]*) refuse "--ranks-after: expected numbers of ranks, found $ranks" ;; esac
    done
    if ! index_of --resume || [ "${COMMAND[INDEX + 1]}" != auto ]; then
        refuse "expected --resume auto in the command: a restart would begin anew"
    fi
    index_of --output || refuse "expected --output in the command: its checkpoints show whether a restart helped"
    OUTPUT=${COMMAND[INDEX + 1]}
    RANKS_AT=""
    if index_of -np --np -n --n --ntasks; then RANKS_AT=$((INDEX + 1)); fi
    [ ${#RANKS_AFTER[@]} = 0 ] || [ -n "$RANKS_AT" ] || refuse "--ranks-after: expected mpirun -np N (or -n N) in the command"
    [ -z "$LOG" ] || : >>"$LOG" || refuse "--log $LOG: expected a file that can be written"
}

newest() { readlink "$OUTPUT/checkpoints/latest" 2>/dev/null || true; } # step_00000012: names sort by step

# forward NAME: called by the traps
forward() {
    local name=$1
    INTERRUPTED=1
    case ${COMMAND[0]##*/} in mpirun | mpiexec | orterun) [ -n "$STOPPED" ] || name=USR1 ;; esac
    STOPPED=$1
    [ -n "$CHILD" ] || return 0
    TOLD=1
    kill -s "$name" "$CHILD" 2>/dev/null || true
}

# Whether a rank has reported a fault.
verdict() {
    local files=("$OUTPUT"/.ranks/verdict_*)
    [ -e "${files[0]}" ]
}

# Whether all children of the command have ended without it noticing.
bereft() {
    local states
    states=$(ps -o stat= --ppid "$CHILD" 2>/dev/null) || return 1
    [ -n "$states" ] && ! grep -q '^[^Z]' <<<"$states"
}

# Whether the command and its parent, this script, are still running.
watched() { [ "$(ps -o ppid= -p "$CHILD" 2>/dev/null | tr -d ' ')" = $$ ]; }

# end_late: runs in the background and kills the command's process group once one of these has lasted END_WITHIN seconds.
end_late() {
    local seconds
    for ((seconds = 0; seconds < END_WITHIN; seconds++)); do
        sleep 1 >/dev/null 2>&1 # holds no stream open when it is killed
        watched || return 0
        verdict || bereft || seconds=-1
    done
    say "ranks ended or told a fault $END_WITHIN s ago and ${COMMAND[0]##*/} has not ended: killed"
    kill -KILL -- "-$CHILD" 2>/dev/null || true
}

# run: runs the command and sets CODE to its exit code. A signal ends `wait` before the command has ended.
run() {
    local code late early
    rm -f "$OUTPUT"/.ranks/verdict_* 2>/dev/null || true # of the previous run
    set -m # gives it a process group of its own, where SIGINT is not ignored; Ctrl-C reaches it through forward
    TOLD=""
    "${COMMAND[@]}" </dev/null &
    CHILD=$!
    set +m
    end_late &
    late=$!
    if [ -n "$STOPPED" ] && [ -z "$TOLD" ]; then # the signal came before the command ran
        early=$STOPPED
        STOPPED="" # mpirun has not had its first signal
        forward "$early"
    fi
    CODE=127
    INTERRUPTED=1
    while [ "$INTERRUPTED" = 1 ]; do
        INTERRUPTED=0
        code=0
        wait "$CHILD" 2>/dev/null || code=$?
        if [ "$code" != 127 ] || [ "$CODE" = 127 ]; then CODE=$code; fi
    done
    CHILD=""
    kill "$late" 2>/dev/null || true
    wait "$late" 2>/dev/null || true
}

# Ranks of a run whose mpirun was killed may take a moment to end.
wait_for_lock() {
    if [ -e "$OUTPUT/lock" ] && command -v flock >/dev/null; then flock -w 60 "$OUTPUT/lock" true || true; fi
}

# rest SECONDS: a signal ends it
rest() {
    local second
    for ((second = 0; second < $1; second++)); do
        if [ -n "$STOPPED" ]; then return; fi
        sleep 1 &
        wait $! 2>/dev/null || true
    done
}

give_up() {
    say "$*"
    exit 1
}

# stop WORDS...: ends this script after a signal when the command did not end normally
stop() {
    say "stopped by SIG$STOPPED$*"
    exit 3
}

parse "$@"
check
trap 'forward TERM' TERM
trap 'forward INT' INT
trap 'forward USR1' USR1
WITHOUT_PROGRESS=0
BEST=$(newest)
for ((RESTART = 0; ; RESTART++)); do
    run
    case $CODE in
    0) exit 0 ;;
    2) exit 2 ;;
    126 | 127) refuse "${COMMAND[0]}: expected a command that can be run" ;;
    esac
    NEWEST=$(newest)
    HERE="newest checkpoint: ${NEWEST:-none}"
    [ -z "$STOPPED" ] || stop ", ended with code $CODE; $HERE"
    [ "$RESTART" -lt "$RESTARTS" ] || give_up "ended with code $CODE after $RESTART restarts, giving up; $HERE"
    if [[ $NEWEST > $BEST ]]; then
        WITHOUT_PROGRESS=0
        BEST=$NEWEST
    elif [ "$RESTART" -gt 0 ]; then
        WITHOUT_PROGRESS=$((WITHOUT_PROGRESS + 1))
    fi
    [ "$WITHOUT_PROGRESS" -lt "$MAX_WITHOUT_PROGRESS" ] ||
        give_up "ended with code $CODE, no newer checkpoint in $WITHOUT_PROGRESS restarts in a row, giving up; $HERE"
    WAIT=$((PAUSE << WITHOUT_PROGRESS))
    WAIT=$((WAIT < MAX_PAUSE ? WAIT : MAX_PAUSE))
    if [ ${#RANKS_AFTER[@]} -gt 0 ]; then
        COMMAND[RANKS_AT]=${RANKS_AFTER[RESTART < ${#RANKS_AFTER[@]} ? RESTART : ${#RANKS_AFTER[@]} - 1]}
    fi
    say "restart $((RESTART + 1)) of $RESTARTS in $WAIT s${RANKS_AT:+, ${COMMAND[RANKS_AT]} ranks}: ended with code $CODE; $HERE"
    rest "$WAIT"
    [ -n "$STOPPED" ] || wait_for_lock
    [ -z "$STOPPED" ] || stop " before the restart; $HERE"
done
