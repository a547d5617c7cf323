#!/usr/bin/env bash
# PEML and its controls on three real tasks, three seeds each. Usage: PEMLC_DATA=... PEMLC_MODEL=... benches/methods/run.sh OUTPUT
# A run that is finished is not run again. Prints the table of `pemlc compare`.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
output="$1"
pemlc="${PEMLC:-$here/../../target/release/pemlc}"
train() {
  local name="$1-seed$2" seed="$2"
  shift 2
  if [ ! -e "$output/$name/run.json" ]; then
    rm -rf "${output:?}/$name"
    "$pemlc" train "$here/three-suites.toml" --device cpu --output "$output/$name" --set "seed=$seed" "$@" >/dev/null
  fi
}
for seed in 1 2 3; do
  train peml "$seed"
  # The rank at which LoRA alone trains as many numbers as PEML does once its cell is found.
  train lora-equal "$seed" --set method=lora --set lora.rank=11 --set lora.alpha=22
  train lora-prefix "$seed" --set method=lora+prefix
  train lora-prefix-mlp "$seed" --set method=lora+prefix-mlp --set prefix.hidden=32
  train peml-random "$seed" --set prefix.random_architecture=true
done
"$pemlc" compare "$output"/*/
