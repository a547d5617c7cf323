#!/usr/bin/env bash
# Runs every device check in order and writes everything it finds under OUT. A step that fails or hangs does not stop the next.
#
#   ./run.sh OUT [STEP...]      with no STEP, every step; a STEP is a prefix of names that OUT/steps.txt lists
#
# Environment: DEVICE=cuda:0, BATCH, SEQUENCE, STEPS (training steps timed), STEP_SECONDS (limit of one step), PYTHON, RUNTIME=ort-cuda, DRAWN=40.
# Steps from 70 on run exported graphs on ONNX Runtime: PEMLC_ORT_DYLIB, or the library of Python's onnxruntime-gpu.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: run.sh OUT [STEP...]}
shift
mkdir -p "$out"
out=$(cd "$out" && pwd)
wanted=("$@")
device=${DEVICE:-cuda:0}
batch=${BATCH:-8}
sequence=${SEQUENCE:-512}
steps=${STEPS:-10}
seconds=${STEP_SECONDS:-600}
python=${PYTHON:-python3}
runtime=${RUNTIME:-ort-cuda}
drawn=${DRAWN:-40}
failed=0

is_wanted() {
    [ ${#wanted[@]} -eq 0 ] && return 0
    local prefix
    for prefix in "${wanted[@]}"; do
        case $1 in "$prefix"*) return 0 ;; esac
    done
    return 1
}

# step NAME COMMAND...: output in NAME.txt, JSON lines also in results.jsonl, exit status and seconds in steps.txt.
step() {
    local name=$1 start status
    shift
    is_wanted "$name" || return 0
    start=$(date +%s)
    timeout --kill-after=5 "$seconds" "$@" >"$out/$name.txt" 2>"$out/$name.err"
    status=$?
    grep '^{' "$out/$name.txt" | sed "s/^{/{\"step\":\"$name\",/" >>"$out/results.jsonl"
    printf '%-40s status %3d  %4d s\n' "$name" "$status" $(($(date +%s) - start)) | tee -a "$out/steps.txt"
    [ "$status" -eq 0 ] || { failed=$((failed + 1)) && tail -n 3 "$out/$name.err" | sed 's/^/    /'; }
}

# NVRTC and the CUDA headers: from a toolkit, or put together from the nvidia-* Python packages.
find_cuda() {
    local packages folder
    if [ -z "${CUDA_PATH:-}" ]; then
        for folder in /usr/local/cuda "$(dirname "$(dirname "$(command -v nvcc || echo /x/y/z)")")"; do
            [ -e "$folder/include/cuda_fp16.h" ] && export CUDA_PATH=$folder && break
        done
    fi
    packages=$("$python" -c 'import nvidia; print("\n".join(nvidia.__path__))' 2>/dev/null) || packages=
    if [ -z "${CUDA_PATH:-}" ] && [ -n "$packages" ]; then
        mkdir -p "$out/cuda/include"
        for folder in $packages/cu13/include $packages/cuda_runtime/include $packages/cuda_cccl/include $packages/cuda_nvcc/include; do
            [ -d "$folder" ] && cp -rsn "$folder/." "$out/cuda/include/"
        done
        export CUDA_PATH=$out/cuda
    fi
    for folder in "${CUDA_PATH:-/nonexistent}/lib64" $packages/cu13/lib $packages/cuda_nvrtc/lib; do
        [ -d "$folder" ] && LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
    done
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
}

# The ONNX Runtime library with CUDA, and the CUDA libraries that its provider loads.
find_ort() {
    local package folder
    package=$("$python" -c 'import importlib.util; print(importlib.util.find_spec("onnxruntime").submodule_search_locations[0])' 2>/dev/null) || package=
    if [ -z "${PEMLC_ORT_DYLIB:-}" ] && [ -n "$package" ]; then
        PEMLC_ORT_DYLIB=$(ls "$package"/capi/libonnxruntime.so.* 2>/dev/null | head -n 1)
        export PEMLC_ORT_DYLIB
    fi
    for folder in $("$python" -c 'import glob, nvidia; print("\n".join(f for p in nvidia.__path__ for f in glob.glob(p + "/*/lib")))' 2>/dev/null); do
        LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$folder
    done
}

environment() {
    date -u
    uname -srm
    nproc
    nvidia-smi || echo "no nvidia-smi"
    echo "CUDA_PATH=${CUDA_PATH:-}"
    echo "LD_LIBRARY_PATH=$LD_LIBRARY_PATH"
    (cd "${CUDA_PATH:-/nonexistent}/include" && ls -d cuda_fp16.h cuda_bf16.h mma.h crt/mma.h cuda/barrier cccl/cuda/barrier)
    find ${LD_LIBRARY_PATH//:/ } -maxdepth 1 -name 'libnvrtc.so*' 2>/dev/null
    ldconfig -p | grep -E 'libcuda\.|libnvrtc|libnccl'
    "$python" --version
    "$python" -c 'import torch; print("torch", torch.__version__, torch.version.cuda, torch.cuda.is_available())'
    "$python" -c 'import peft, transformers; print("peft", peft.__version__, "transformers", transformers.__version__)'
    echo "PEMLC_ORT_DYLIB=${PEMLC_ORT_DYLIB:-}"
    "$python" -c 'import onnxruntime; print("onnxruntime", onnxruntime.__version__, onnxruntime.get_available_providers())'
    "$here/pemlc" --version
    ldd "$here/pemlc"
}

find_cuda
find_ort
rm -f "$out/results.jsonl" "$out/steps.txt"
environment >"$out/environment.txt" 2>&1

bench=$here/pemlc-bench
# tiny.toml lies beside the fixtures in the bundle, elsewhere in the repository.
[ -d "$here/fixtures" ] && export PEMLC_FIXTURES=fixtures
unfused=(env BURN_FUSION_MAX_EXPLORATIONS=0)
shape=(--device "$device" --batch "$batch" --sequence "$sequence" --rank 8 --prefix 8 --steps "$steps")

step 10-smoke "$bench" smoke --device "$device" --matmul 4096
step 11-smoke-unfused "${unfused[@]}" "$bench" smoke --device "$device" --matmul 4096
for dtype in f32 bf16; do
    step "20-compare-$dtype" "$bench" compare --device "$device" --dtype "$dtype"
    step "21-compare-$dtype-unfused" "${unfused[@]}" "$bench" compare --device "$device" --dtype "$dtype"
done
for width in smollm2-135m tinyllama-1.1b llama-2-7b; do
    step "30-train-$width-bf16" "$bench" train-step --width "$width" --dtype bf16 "${shape[@]}"
    step "31-train-$width-bf16-unfused" "${unfused[@]}" "$bench" train-step --width "$width" --dtype bf16 "${shape[@]}"
done
step 32-train-smollm2-135m-f32 "$bench" train-step --width smollm2-135m --dtype f32 "${shape[@]}"
if "$python" -c 'import torch' 2>/dev/null; then
    implementations=torch
    "$python" -c 'import peft, transformers' 2>/dev/null && implementations="peft torch"
    for width in smollm2-135m tinyllama-1.1b llama-2-7b; do
        for implementation in $implementations; do
            step "40-torch-$width-bf16-$implementation" "$python" "$here/torch_step.py" --width "$width" --dtype bf16 \
                --implementation "$implementation" "${shape[@]}"
        done
    done
fi
step 50-train-tiny-cpu "$here/pemlc" train "$here/tiny.toml" --output "$out/tiny-cpu" --device cpu
step 51-train-tiny-device "$here/pemlc" train "$here/tiny.toml" --output "$out/tiny-device" --device "$device"
step 52-export-tiny "$here/pemlc" export "$out/tiny-device" "$out/tiny-artifact" --runtime tract
# Every method, and each form of the search, trains and exports what it trained; MixLoRA has nothing to export.
for method in lora rslora dora adalora mtl-lora multilora moelora poly c-poly prefix prefix-mlp prompt p-tuning mpt mixlora; do
    step "60-train-$method" "$here/pemlc" train "$here/tiny.toml" --output "$out/$method" --device "$device" --set "method=$method"
    [ "$method" = mixlora ] || step "61-export-$method" "$here/pemlc" export "$out/$method" "$out/$method-artifact" --runtime tract
done
for search in relaxation=straight_through update=bilevel generators=per_layer insertion=hidden search_layers=true after_search=both; do
    name=${search//=/-}
    step "62-train-$name" "$here/pemlc" train "$here/tiny.toml" --output "$out/$name" --device "$device" --set "prefix.$search"
    step "63-export-$name" "$here/pemlc" export "$out/$name" "$out/$name-artifact" --runtime tract
done

# Exported graphs on ONNX Runtime: every number type, lowering, target and further graph that this build has. The run is trained here, on the
# CPU, so that these steps can be run by themselves.
knows() { "$here/pemlc" export --help | grep -qw -- "$1"; }
check() {
    local name=$1
    shift
    step "71-export-$name" "$here/pemlc" export "$out/ort-run" "$out/ort-$name" --no-check "$@"
    step "72-check-$name" "$here/pemlc" check "$out/ort-$name" --runtime "$runtime" --drawn "$drawn"
    step "73-bisect-$name" "$here/pemlc" check "$out/ort-$name" "--bisect=$runtime,ort-cpu-unoptimized" --drawn 8
}
step 70-train-for-ort "$here/pemlc" train "$here/tiny.toml" --output "$out/ort-run" --device cpu --set 'lora.sharing="both"'
check f32 --task-switch gather --also scorer,per-task,ort-adapters
check f32-masked --task-switch masked
for dtype in f16 bf16; do
    check "$dtype" --dtype "$dtype" --also scorer,per-task,ort-adapters
done
# The lowest opset that has what these types need is export's own choice.
for dtype in int8 int4; do
    knows "$dtype" && check "$dtype" --dtype "$dtype"
done
for opset in 21 23 24; do
    check "opset-$opset" --opset "$opset"
done
check target-ort --target ort
check target-ort-f16 --target ort --dtype f16
# Asked for a GPU that is not there, nothing may run in its place.
if [ "$runtime" = ort-cuda ] && is_wanted 75-no-such-device; then
    CUDA_VISIBLE_DEVICES= timeout "$seconds" "$here/pemlc" check "$out/ort-f32" --runtime ort-cuda >"$out/75-no-such-device.txt" 2>"$out/75-no-such-device.err"
    [ $? -eq 1 ] && ! grep -q 'validated: true' "$out/75-no-such-device.txt" && status=0 || status=1
    printf '%-40s status %3d\n' 75-no-such-device "$status" | tee -a "$out/steps.txt"
    failed=$((failed + status))
fi

echo "$failed steps failed; see $out"
[ "$failed" -eq 0 ]
