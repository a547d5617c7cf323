"""Adapters of every kind that `pemlc import` reads, made by PEFT itself, against PEFT's own logits.

Makes random adapters on a random Llama and a random Qwen2 model (or on MODEL), runs `pemlc import` and `pemlc export`, runs the ONNX graph
under onnxruntime for every task in one mixed, padded batch, once whole and once in two pieces through the cache, and compares each row with
what PEFT answers to it alone. Fails when any logit differs by more than 1e-4 (in proportion where logits exceed 10, as `pemlc check` has it), or
three times what PEFT in f32 differs from PEFT in f64, the column `PEFT f64`.

Needs numpy, onnxruntime, peft, tokenizers, torch and transformers. Runs by hand, outside CI.

    python3 tests/peft_import.py target/debug/pemlc [--keep DIR] [--model MODEL]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import onnxruntime
import torch
import transformers
from peft_adapters import MODELS, kinds, load, make_adapter, make_base, peft_logits, versions

LIMIT = 1e-4
TEXT = ("The train to the coast leaves at half past seven, and the tickets are sold at the station. Which of the two boxes is heavier, the "
        "red one or the blue one? In 1998 the company had 42 employees; ten years later there were more than three hundred of them.")


def command(*words):
    print("$", *words, flush=True)
    result = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    sys.stdout.write(result.stdout)
    if result.returncode:
        sys.exit(f"exit code {result.returncode}\n{result.stderr}")


def onnx_logits(artifact, rows, task_ids, cut):
    """Logits of a right-padded batch; with `cut`, the first tokens first and the rest through the cache."""
    config = json.loads((artifact / "pemlc.json").read_text())["config"]
    session = onnxruntime.InferenceSession(str(artifact / "model.onnx"), providers=["CPUExecutionProvider"])
    length = max(map(len, rows))
    ids = numpy.array([row + [0] * (length - len(row)) for row in rows], numpy.int64)
    mask = numpy.array([[1] * len(row) + [0] * (length - len(row)) for row in rows], numpy.int64)
    positions = numpy.maximum(mask.cumsum(1) - 1, 0)
    shape = (len(rows), config["num_key_value_heads"], 0, config["head_dim"])
    cache = [numpy.zeros(shape, numpy.float32)] * (2 * config["num_hidden_layers"])
    names = [f"past_key_values.{layer}.{part}" for layer in range(config["num_hidden_layers"]) for part in ("key", "value")]
    pieces = []
    for start, end in ([(0, length)] if not cut else [(0, cut), (cut, length)]):
        inputs = {"input_ids": ids[:, start:end], "attention_mask": mask[:, :end], "position_ids": positions[:, start:end],
                  "task_id": numpy.array(task_ids, numpy.int64), **dict(zip(names, cache))}
        logits, *cache = session.run(None, inputs)
        pieces.append(logits)
    logits = numpy.concatenate(pieces, 1)
    return [logits[index, :len(row)] for index, row in enumerate(rows)]


def texts(base, tasks):
    """Two rows of tokens for each task: of a text for a trained model, else any."""
    config = json.loads((base / "config.json").read_text())
    generator = numpy.random.default_rng(5)
    for task in range(tasks):
        sizes = (5 + task % 7, 17)
        if (base / "tokenizer_config.json").exists():
            tokenizer = transformers.AutoTokenizer.from_pretrained(base)
            yield [tokenizer(TEXT[7 * task:]).input_ids[:size] for size in sizes]
        else:
            yield [generator.integers(0, config["vocab_size"], size).tolist() for size in sizes]


def compare(binary, base, root, adapters, tasks):
    """Imports, exports, runs. Prints a line a task; returns whether all is well."""
    words = []
    for name, (folders, index) in tasks.items():
        for folder in folders:
            words += ["--task", f"{name}={adapters / folder}{'' if index is None else f'#{index}'}"]
    command(binary, "import", "--base", base, *words, "--force", root / "run")
    # Random rows in a trained model make answers that tract's exponentials do not hold to 1e-4.
    command(binary, "export", root / "run", root / "artifact", "--force", *(["--runtime", "ort-cpu"] if base.parent != root else []))
    rows, task_ids, expected, exact, owners = [], [], [], [], []
    for task, ((name, (folders, index)), own) in enumerate(zip(tasks.items(), texts(base, len(tasks)))):
        expected += peft_logits(base, [adapters / folder for folder in folders], index, own)
        exact += peft_logits(base, [adapters / folder for folder in folders], index, own, torch.float64)
        rows += own
        task_ids += [task] * len(own)
        owners += [name] * len(own)
    base_logits = []
    model = load(base)
    with torch.no_grad():
        base_logits = [model(torch.tensor([row])).logits[0].numpy() for row in rows]
    found, cached = onnx_logits(artifact := root / "artifact", rows, task_ids, 0), onnx_logits(artifact, rows, task_ids, 4)
    validated = json.loads((artifact / "pemlc.json").read_text())["validated"]
    print(f"\n{'task':20} {'largest':>9} {'cached':>9} {'PEFT f64':>9} {'logits to':>9} {'from base':>9}")
    worst, close = 0.0, True
    for name in tasks:
        own = [place for place, owner in enumerate(owners) if owner == name]
        whole = max(float(abs(found[place] - expected[place]).max()) for place in own)
        pieces = max(float(abs(cached[place] - expected[place]).max()) for place in own)
        rounding = max(float(abs(exact[place] - expected[place]).max()) for place in own)
        size = max(float(abs(expected[place]).max()) for place in own)
        change = min(float(abs(expected[place] - base_logits[place]).max()) for place in own)
        assert change > 0.01, f"{name} does nothing: it would pass whatever is imported"
        print(f"{name:20} {whole:9.1e} {pieces:9.1e} {rounding:9.1e} {size:9.1f} {change:9.2f}")
        # No f32 model can be held to PEFT's numbers more closely than PEFT's own f32 holds to them.
        allowed = max(LIMIT * max(1.0, size / 10), 3 * rounding)
        close = close and max(whole, pieces) <= allowed
        worst = max(worst, whole, pieces)
    print(f"largest difference {worst:.1e}, {'all' if close else 'NOT ALL'} close enough, artifact validated: {validated}\n", flush=True)
    return close and validated


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=Path)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder to use in place of random models")
    parser.add_argument("--keep", type=Path, help="a folder for what is made, which is kept")
    arguments = parser.parse_args()
    print(" ".join(f"{name} {version}" for name, version in versions().items()), "onnxruntime", onnxruntime.__version__)
    good = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in [arguments.model.name] if arguments.model else MODELS:
            root = (arguments.keep or Path(scratch)) / name
            base, adapters = arguments.model or root / "base", root / "adapters"
            if not arguments.model:
                make_base(base, name)
            layers = json.loads((base / "config.json").read_text())["num_hidden_layers"]
            folders, tasks = kinds(layers - 1)
            for seed, (folder, config) in enumerate(folders.items()):
                make_adapter(base, config, adapters / folder, seed, 0.25 if arguments.model else 1.0)
            print(f"# {name}: {len(tasks)} tasks of {len(folders)} folders")
            good.append(compare(arguments.binary, base, root, adapters, tasks))
    if not all(good):
        sys.exit("logits are not PEFT's, or a check failed")


if __name__ == "__main__":
    main()
