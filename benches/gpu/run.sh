#!/bin/sh
# What a GPU does with metamask, in ten minutes, into one report: is it right, does a killed run go
# on with the same bits, how fast is it beside PyTorch, how much memory does it take, does it train.
#
#   benches/gpu/run.sh [REPORT]             default: gpu-report.md
#
# Needs a program built with --features cuda, NVIDIA's driver, cuBLAS, cuDNN 9 and cuRAND; no Rust and no
# network. With a python3 that has PyTorch it measures that beside ours, and takes the libraries that came
# with it where the system has none.
#
#   METAMASK=PATH   the program              default: target/release/metamask
#   DEVICE=NAME     where                    default: cuda:0
#   PYTHON=PATH     the Python               default: python3
#   SECONDS_EACH=N  for a section at most    default: 120; the speed table has two and a half times that
#   SPEED_OPTIONS, TRAINING_OPTIONS          more for speed.py and for pretrain
set -u

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
METAMASK=${METAMASK:-$here/../../target/release/metamask}
DEVICE=${DEVICE:-cuda:0}
PYTHON=${PYTHON:-python3}
report=${1:-gpu-report.md}
each=${SECONDS_EACH:-120}

if [ ! -x "$METAMASK" ]; then
    echo "run.sh: $METAMASK is no program: build with --features cuda, or say METAMASK=PATH" >&2
    exit 2
fi
if [ -e "$report" ]; then
    echo "run.sh: $report is there already: name another" >&2
    exit 2
fi
METAMASK=$(CDPATH= cd -- "$(dirname -- "$METAMASK")" && pwd)/$(basename -- "$METAMASK")

wheels=$("$PYTHON" - 2>/dev/null <<'PYTHON'
import glob, site
folders = [f for s in site.getsitepackages() for f in glob.glob(s + "/nvidia/*/lib")]
print(":".join(folders))
PYTHON
)
LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}${LD_LIBRARY_PATH:+${wheels:+:}}$wheels
export LD_LIBRARY_PATH

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0

say() { printf '%s\n' "$@" >>"$report"; }

# section TITLE COMMAND...: runs it, keeps what it printed, and goes on whatever became of it.
section() {
    title=$1
    shift
    echo "run.sh: $title" >&2
    case $title in
    Speed*) limit=$((each * 5 / 2)) ;;
    *) limit=$each ;;
    esac
    begun=$(date +%s)
    (cd "$work" && timeout "$limit" "$@") >"$work/out" 2>"$work/err"
    status=$?
    took=$(($(date +%s) - begun))
    say "" "## $title" ""
    case $title in
    Speed*) cat "$work/out" >>"$report" ;;
    *) say '```text' && cat "$work/out" >>"$report" && say '```' ;;
    esac
    if [ $status -ne 0 ]; then
        failed=$((failed + 1))
        say "" "**Failed** with status $status (124 is the limit of $limit s):" '```text'
        tail -n 15 "$work/err" >>"$report"
        say '```'
    fi
    say "" "$took s."
}

say "# metamask on $DEVICE" "" "By \`benches/gpu/run.sh\`, $(date -u +%Y-%m-%d)."
section "Machine" sh -c '
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv 2>&1
    grep -m1 "model name" /proc/cpuinfo; nproc
    "$0" --version
    "$1" -c "import torch; print(\"PyTorch\", torch.__version__, torch.version.cuda, torch.backends.cudnn.version())" 2>&1 | tail -n 1
' "$METAMASK" "$PYTHON"
section "Right and repeatable" "$METAMASK" selftest --device "$DEVICE" --kill 5 --dir "$work"
section "Speed" "$PYTHON" "$here/speed.py" --metamask "$METAMASK" --device "$DEVICE" ${SPEED_OPTIONS:-}
section "Training: the quickstart, whose kNN is 54.7 ± 0.7 on the CPU" \
    "$METAMASK" pretrain --device "$DEVICE" --out "$work/quickstart" ${TRAINING_OPTIONS:-}

if [ $failed -eq 0 ]; then verdict="everything ran"; else verdict="$failed sections failed"; fi
say "" "Verdict: $verdict."
echo "run.sh: $verdict; $report" >&2
[ $failed -eq 0 ]
