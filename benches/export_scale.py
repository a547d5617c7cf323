"""Memory and time of an export at the widths of larger models, with random weights.

    python3 benches/export_scale.py PEMLC FOLDER [--model tinyllama|llama-2-7b] [--dtype f16] [--keep]

Writes a checkpoint in several safetensors files (f32; f16 for the 7B) and a run with a shared delta and one for each of two tasks, copies the
checkpoint with `cp` for comparison, and exports. Peak memory is the largest resident set of the exporting process, mapped files included. Needs numpy.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

MODELS = {
    "tinyllama": dict(hidden=2048, mlp=5632, layers=22, heads=32, groups=4, vocabulary=32000, dtype=np.float32),
    "llama-2-7b": dict(hidden=4096, mlp=11008, layers=32, heads=32, groups=32, vocabulary=32000, dtype=np.float16),
}
TASKS = ("first", "second")
RANK = 16


def shapes(model):
    hidden, mlp, width = model["hidden"], model["mlp"], model["hidden"] // model["heads"]
    kv = model["groups"] * width
    return {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (mlp, hidden), "mlp.up_proj": (mlp, hidden), "mlp.down_proj": (hidden, mlp),
    }


def tensors(model):
    """(file number, name, shape) of every tensor; four layers to a file."""
    hidden = model["hidden"]
    yield 0, "model.embed_tokens.weight", (model["vocabulary"], hidden)
    for layer in range(model["layers"]):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield layer // 4, f"model.layers.{layer}.{norm}.weight", (hidden,)
        for module, shape in shapes(model).items():
            yield layer // 4, f"model.layers.{layer}.{module}.weight", shape
    last = (model["layers"] - 1) // 4
    yield last, "model.norm.weight", (hidden,)
    yield last, "lm_head.weight", (model["vocabulary"], hidden)


def write_safetensors(path, named, dtype, make):
    header, offset = {}, 0
    for name, shape in named:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        header[name] = {"dtype": {4: "F32", 2: "F16"}[np.dtype(dtype).itemsize], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for part in (struct.pack("<Q", len(text)), text):
            digest.update(part)
            file.write(part)
        for name, shape in named:
            data = make(name, shape).astype(dtype).tobytes()
            digest.update(data)
            file.write(data)
    return {"path": path.name, "sha256": digest.hexdigest(), "bytes": path.stat().st_size}


def record(path):
    return {"path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}


def write_model(folder, model, fixture):
    folder.mkdir(parents=True)
    random = np.random.default_rng(3)

    def make(name, shape):
        values = random.standard_normal(shape, dtype=np.float32)
        return 1 + 0.1 * values if name.endswith("norm.weight") else 0.02 * values

    named = {}
    for file, name, shape in tensors(model):
        named.setdefault(file, []).append((name, shape))
    files, places = [], {}
    for file, own in named.items():
        path = folder / f"model-{file + 1:05d}-of-{len(named):05d}.safetensors"
        files.append(write_safetensors(path, own, model["dtype"], make))
        places.update({name: path.name for name, _ in own})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = json.loads((fixture / "config.json").read_text())
    config.update(hidden_size=model["hidden"], intermediate_size=model["mlp"], num_hidden_layers=model["layers"], num_attention_heads=model["heads"],
                  num_key_value_heads=model["groups"], head_dim=model["hidden"] // model["heads"], vocab_size=model["vocabulary"],
                  tie_word_embeddings=False, max_position_embeddings=2048)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(fixture / name, folder / name)
    return files


def write_lora(folder, model, seed):
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    named = []
    for layer in range(model["layers"]):
        for module, (outputs, inputs) in shapes(model).items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            named += [(f"{name}.lora_A.weight", (RANK, inputs)), (f"{name}.lora_B.weight", (outputs, RANK))]
    write_safetensors(folder / "adapter_model.safetensors", named, np.float32, lambda _, shape: 0.01 * random.standard_normal(shape, dtype=np.float32))
    targets = [module.split(".")[1] for module in shapes(model)]
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": targets, "task_type": "CAUSAL_LM", "bias": "none",
                "base_model_name_or_path": "random"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def write_run(folder, model, base, described):
    """`described` is the base model as `pemlc` sees it: its configuration and the hashes of its files."""
    write_lora(folder / "adapters/shared", model, 1)
    for index, task in enumerate(TASKS):
        write_lora(folder / f"adapters/{task}/lora", model, 2 + index)
    task = {"metric": "accuracy", "train_examples": 0, "validation_examples": 0, "base_score": None, "score": None, "template": "{text}", "verbalizers": []}
    costs = dict.fromkeys(("search_seconds", "training_seconds", "evaluation_seconds"), 0.0)
    costs.update(dict.fromkeys(("optimizer_steps", "tokens", "trainable_parameters", "peak_memory_bytes"), 0))
    run = {
        "schema_version": 1, "pemlc_version": "0.0.0", "method": "lora", "seed": 0, "device": "cpu", "base_dtype": "f32", "files": [], "costs": costs,
        "base": {"path": str(base.resolve()), "name": base.name, "licence": None, **described},
        "tasks": [{"name": name, **task} for name in TASKS],
        "lora": {"rank": RANK, "alpha": float(RANK), "targets": [module.split(".")[1] for module in shapes(model)], "shared": True, "per_task": True},
        "prefix": None,
    }
    (folder / "run.json").write_text(json.dumps(run))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pemlc")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=MODELS, default="tinyllama")
    parser.add_argument("--dtype", default="f16")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    model = MODELS[arguments.model]
    fixture = Path(__file__).resolve().parent.parent / "fixtures/tiny-model"
    shutil.rmtree(arguments.folder, ignore_errors=True)
    base, run, out, copy = (arguments.folder / name for name in ("base", "run", "out", "copy"))
    weights = write_model(base, model, fixture)
    width = model["hidden"] // model["heads"]
    tiny = json.loads((fixture / "config.json").read_text())
    described = {
        "config": {
            "family": "llama", "hidden_size": model["hidden"], "intermediate_size": model["mlp"], "num_hidden_layers": model["layers"],
            "num_attention_heads": model["heads"], "num_key_value_heads": model["groups"], "head_dim": width, "vocab_size": model["vocabulary"],
            "max_position_embeddings": 2048, "rms_norm_eps": tiny["rms_norm_eps"], "rope_theta": 10000.0, "rope_scaling": None,
            "tie_word_embeddings": False, "bos_token_id": tiny["bos_token_id"], "eos_token_ids": [tiny["eos_token_id"]], "pad_token_id": tiny["pad_token_id"],
        },
        "files": weights + [record(base / "config.json")],
    }
    write_run(run, model, base, described)
    bytes_in = sum(file["bytes"] for file in weights)
    start = time.monotonic()
    shutil.rmtree(copy, ignore_errors=True)
    subprocess.run(["cp", "-r", base, copy], check=True)
    os.sync()
    copied = time.monotonic() - start
    shutil.rmtree(copy)
    start = time.monotonic()
    done = subprocess.run([arguments.pemlc, "export", run, out, "--no-check", "--dtype", arguments.dtype], capture_output=True, text=True)
    seconds = time.monotonic() - start
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    bytes_out = (out / "model.onnx.data").stat().st_size
    largest = max(int(np.prod(shape)) for _, _, shape in tensors(model)) * 4 / 1e6
    print(done.stderr)
    print("| model | checkpoint | artifact | largest tensor, f32 | peak memory | seconds | copying the checkpoint | ratio |\n|---|---|---|---|---|---|---|---|")
    print(f"| {arguments.model}, {np.dtype(model['dtype']).name} to {arguments.dtype} | {bytes_in / 1e9:.2f} GB in {len(weights)} files | {bytes_out / 1e9:.2f} GB "
          f"| {largest:.0f} MB | {peak:.0f} MB | {seconds:.1f} | {copied:.1f} s | {seconds / copied:.2f} |")
    if not arguments.keep:
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
