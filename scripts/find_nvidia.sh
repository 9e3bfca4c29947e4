#!/usr/bin/env bash
# Finds a library of NVIDIA's with its header, wherever it is installed, and prints options for a compiler or a linker, quoted.
#
#   scripts/find_nvidia.sh compile HEADER [LIBRARY]   -isystem 'FOLDER'
#   scripts/find_nvidia.sh link HEADER LIBRARY        'FILE' -Wl,-rpath,'FOLDER'
#
# as in `compile nccl.h nccl`. Both mean the first of these places that has the header, and the library if one is named:
# DEPS (see the Makefile), CUDA_HOME, the system, .venv, the packages of PYTHON (default: python3). The last two are pip's
# nvidia-* packages, whose libraries have a version at the end of the name and none without. Exit codes: 0 found; 1 not; 2 bad
# usage.
set -uo pipefail
shopt -s nullglob

ROOT=$(dirname "$(dirname "$(readlink -f "$0")")")
MACHINE=$(uname -m)-linux-gnu

usage() {
    echo "find_nvidia: expected compile HEADER [LIBRARY] or link HEADER LIBRARY" >&2
    exit 2
}

find_header() { # prefix: prints the folder
    local folder
    for folder in "$1/include" "$1/include/$MACHINE"; do
        [ ! -e "$folder/$HEADER" ] || { realpath "$folder" && return 0; }
    done
    return 1
}

find_library() { # prefix: prints the file; the one without a version first
    local file
    for file in "$1"/{lib64,lib/"$MACHINE",lib}/"lib$LIBRARY".so{,.*}; do
        [ ! -e "$file" ] || { realpath -s "$file" && return 0; }
    done
    return 1
}

try() { # prefix: prints the options and ends this script if what is wanted is there
    local include library=""
    [ -d "$1" ] && include=$(find_header "$1") || return 0
    [ -z "$LIBRARY" ] || library=$(find_library "$1") || return 0
    case $WHAT,$include in
        link,*) echo "'$library' -Wl,-rpath,'$(dirname "$library")'" ;;
        compile,/usr/include*) echo "-I'$include'" ;; # -isystem there would hide the compiler's own headers
        compile,*) echo "-isystem '$include'" ;;
    esac
    exit 0
}

try_packages() { # folders of Python packages
    local folder prefix
    for folder in "$@"; do
        try "$folder" # where nvidia-cudnn-frontend has its headers
        for prefix in "$folder"/nvidia/*/; do try "${prefix%/}"; done
    done
}

WHAT=${1:-} HEADER=${2:-} LIBRARY=${3:-}
case $WHAT,$# in compile,2 | compile,3 | link,3) ;; *) usage ;; esac
for prefix in ${DEPS:+"$DEPS/usr"} ${CUDA_HOME:+"$CUDA_HOME"} /usr; do try "$prefix"; done
try_packages "$ROOT"/.venv/lib/python3*/site-packages
mapfile -t packages < <("${PYTHON:-python3}" -c 'import sys; print(*filter(None, sys.path), sep="\n")' 2>/dev/null)
try_packages "${packages[@]}"
exit 1
