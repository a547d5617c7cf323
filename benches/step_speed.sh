#!/usr/bin/env bash
# One training step, pemlc against PyTorch + PEFT: the same shapes, in turn, several times, and the ratio of the medians.
#
#     benches/step_speed.sh MODEL [repeats]
#
# MODEL is a Hugging Face folder or a .gguf file. PYTHON (default python3) must have torch, transformers and peft (and gguf for a .gguf file).
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: benches/step_speed.sh MODEL [repeats]" >&2; exit 2; }
model=$(realpath "$1") repeats=${2:-3} python=${PYTHON:-python3} threads=${THREADS:-2}
batch=4 sequence=64 rank=8 prefix=8 steps=6
cd "$(dirname "$0")/.."
cargo build --quiet --release -p pemlc-trainer --example step_speed
ours=${CARGO_TARGET_DIR:-target}/release/examples/step_speed
results=$(mktemp)
trap 'rm -f "$results"' EXIT
for _ in $(seq "$repeats"); do
    RAYON_NUM_THREADS=$threads "$ours" "$model" $batch $sequence $rank $prefix $((steps - 1)) f32 cpu | sed 's/^/pemlc /' >> "$results"
    "$python" benches/pytorch_step.py "$model" --batch $batch --sequence $sequence --rank $rank --prefix $prefix --steps $steps \
        --threads "$threads" 2> /dev/null | sed 's/^/pytorch /' >> "$results"
done
"$python" - "$results" <<'PYTHON'
import json, statistics, sys
runs = {"pemlc": [], "pytorch": []}
for line in open(sys.argv[1]):
    name, text = line.split(" ", 1)
    run = json.loads(text)
    run.setdefault("peak_memory_mb", run.get("peak_memory_bytes", 0) / 2**20)
    runs[name].append(run)
if not all(runs.values()):
    sys.exit("one side printed no result: run its command by hand to see why")
def median(name, key):
    return statistics.median(run[key] for run in runs[name])
base = median("pytorch", "tokens_per_second")
print("| | tokens/s (median) | runs | against PyTorch | peak memory MB |\n|---|---|---|---|---|")
for name, found in runs.items():
    each = ", ".join(f"{run['tokens_per_second']:.0f}" for run in found)
    speed, memory = median(name, "tokens_per_second"), max(run["peak_memory_mb"] for run in found)
    print(f"| {name} | {speed:.0f} | {each} | {speed / base:.2f}x | {memory:.0f} |")
PYTHON
