#!/usr/bin/env bash
# Builds the release programs with CUDA and packs what a GPU machine needs, without Rust or network, into one file.
#
#   benches/cuda/make_bundle.sh [OUT.tar.xz]      default target/pemlc-cuda.tar.xz
#
# CARGO_TARGET_DIR is respected. Fails when the file is 60 MB or larger.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
target=${CARGO_TARGET_DIR:-$root/target}
out=${1:-$target/pemlc-cuda.tar.xz}
limit=60000000

cargo build --release --locked --features cuda -p pemlc -p pemlc-bench

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
bundle=$stage/pemlc-cuda
mkdir "$bundle"
cp "$target/release/pemlc" "$target/release/pemlc-bench" "$bundle/"
strip "$bundle/pemlc" "$bundle/pemlc-bench"
cp benches/cuda/run.sh benches/cuda/torch_step.py benches/cuda/tiny.toml benches/cuda/README.md "$bundle/"
mkdir "$bundle/fixtures"
cp -r fixtures/tiny-model fixtures/demo "$bundle/fixtures/"

# The dictionary spans both programs, which share most of their code.
tar --sort=name --owner=0 --group=0 -C "$stage" -c pemlc-cuda | xz --threads=1 --lzma2=preset=6,dict=192MiB >"$out"
size=$(stat -c %s "$out")
echo "$out: $size bytes, of $(du -sb "$bundle" | cut -f1) unpacked"
if [ "$size" -ge "$limit" ]; then
    echo "the bundle must stay under $limit bytes" >&2
    exit 1
fi
