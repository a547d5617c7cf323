"""What the task switch costs: CPU time of graphs with many tasks over the graph of one merged task.

    python3 benches/task_switch.py PEMLC BASE_MODEL FOLDER [--tasks 8] [--ranks 16] --config CONFIG [--rounds 7]

PEMLC is the binary, BASE_MODEL what `pemlc import --base` takes, FOLDER a place for some gigabytes. Random adapters on all projections are written as
PEFT folders, imported, and exported once for each lowering. All graphs take turns, one run each a round; a figure is the median over rounds of the
process's CPU time on one thread. Needs numpy and onnxruntime. `--fit` also fits the rates of the cost model (passes/task_switch/cost.rs) to the figures of all
tasks and ranks, and says how far the choice of by-cost is from the best.
"""

import argparse
import json
import shutil
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

SHAPES = {"prefill B8 S64": (8, 64, 0), "prefill B1 S64": (1, 64, 0), "decode B8": (8, 1, 64), "decode B1": (1, 1, 64)}
MODULES = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


def write_safetensors(path, tensors):
    tensors = {name: np.ascontiguousarray(array, dtype="<f4") for name, array in tensors.items()}
    header, offset = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for array in tensors.values():
            file.write(array.tobytes())


def widths(config, module):
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    heads, groups, width = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    return {
        "q_proj": (hidden, heads * width), "k_proj": (hidden, groups * width), "v_proj": (hidden, groups * width),
        "o_proj": (heads * width, hidden), "gate_proj": (hidden, mlp), "up_proj": (hidden, mlp), "down_proj": (mlp, hidden),
    }[module]


def write_lora(folder, config, rank, seed):
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for block, modules in MODULES.items():
            for module in modules:
                inputs, outputs = widths(config, module)
                name = f"base_model.model.model.layers.{layer}.{block}.{module}"
                tensors[f"{name}.lora_A.weight"] = random.normal(0, 0.02, (rank, inputs))
                tensors[f"{name}.lora_B.weight"] = random.normal(0, 0.02, (outputs, rank))
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    targets = [module for modules in MODULES.values() for module in modules]
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets, "task_type": "CAUSAL_LM", "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def write_prefix(folder, config, rows, seed):
    folder.mkdir(parents=True, exist_ok=True)
    layers, groups, width = config["num_hidden_layers"], config["num_key_value_heads"], config["head_dim"]
    table = np.random.default_rng(seed).normal(0, 0.3, (rows, layers * 2 * groups * width))
    write_safetensors(folder / "adapter_model.safetensors", {"prompt_embeddings": table})
    settings = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": rows, "token_dim": groups * width, "num_layers": layers, "num_attention_heads": groups,
                "prefix_projection": False, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


class Bench:
    def __init__(self, arguments):
        self.arguments, self.folder = arguments, arguments.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = None

    def pemlc(self, *command):
        done = subprocess.run([self.arguments.pemlc, *map(str, command)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")

    def run_directory(self, name, tasks):
        run = self.folder / f"run-{name}"
        if not (run / "run.json").exists():
            named = [part for task, folders in tasks.items() for folder in folders for part in ("--task", f"{task}={folder}")]
            self.pemlc("import", "--base", self.arguments.base, *named, run)
        return run

    def graph(self, run, lowering):
        out = self.folder / f"graph-{run.name[4:]}-{lowering}"
        if not (out / "pemlc.json").exists():
            self.pemlc("export", run, out, "--no-check", "--task-switch", lowering)
        return out

    def session(self, graph):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(str(graph / "model.onnx"), options, providers=["CPUExecutionProvider"])

    def feed(self, shape, tasks):
        batch, sequence, past = shape
        config = self.config
        feed = {
            "input_ids": np.random.default_rng(1).integers(5, 1000, (batch, sequence)),
            "attention_mask": np.ones((batch, past + sequence), np.int64),
            "position_ids": np.tile(np.arange(past, past + sequence), (batch, 1)),
            "task_id": np.arange(batch, dtype=np.int64) % tasks,
        }
        cache = np.random.default_rng(2).normal(0, 1, (batch, config["num_key_value_heads"], past, config["head_dim"])).astype(np.float32)
        for layer in range(config["num_hidden_layers"]):
            feed[f"past_key_values.{layer}.key"] = feed[f"past_key_values.{layer}.value"] = cache
        return feed

    def times(self, graphs):
        """{name: {shape: median CPU seconds}} of {name: (graph, tasks)}, all in turn."""
        found = {name: {shape: [] for shape in SHAPES} for name in graphs}
        sessions = {name: (self.session(graph), tasks) for name, (graph, tasks) in graphs.items()}
        for round in range(self.arguments.rounds + 1):
            for shape, sizes in SHAPES.items():
                repeats = 1 if sizes[1] > 1 else 5
                for name, (session, tasks) in sessions.items():
                    feed = self.feed(sizes, tasks)
                    start = time.process_time()
                    for _ in range(repeats):
                        session.run(["logits"], feed)
                    if round > 0:  # the first one warms up
                        found[name][shape].append((time.process_time() - start) / repeats)
        return {name: {shape: statistics.median(times) for shape, times in shapes.items()} for name, shapes in found.items()}


def table(times, base):
    print("| graph | " + " | ".join(SHAPES) + " |\n|---" * 1 + "|---" * len(SHAPES) + "|")
    for name, shapes in times.items():
        cells = [f"{1000 * seconds:.1f} ms" if name == base else f"{seconds / times[base][shape]:.2f}" for shape, seconds in shapes.items()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def terms(config, lowering, tasks, rank, shape):
    """Nodes, bytes and multiply-adds of all deltas of a run, as passes/task_switch/cost.rs counts them."""
    batch, sequence, _ = shape
    total = np.zeros(3)
    for modules in MODULES.values():
        for module in modules:
            wide = sum(widths(config, module))
            if lowering == "gather":
                total += (4, 12 * batch * wide * rank, batch * sequence * wide * rank)
            else:
                total += (3, 4 * wide * rank * tasks, batch * sequence * wide * rank * tasks)
    return total * config["num_hidden_layers"]


def fit(config, figures):
    """`figures`: (tasks, rank, times). Least squares of relative errors, no rate below zero: a rate that would be is left out."""
    for lowering in ("gather", "masked"):
        rows, extra = [], []
        for tasks, rank, times in figures:
            for shape, sizes in SHAPES.items():
                seconds = times[lowering][shape] - times["one task, merged"][shape]
                weight = 1 / times["one task, merged"][shape]
                rows.append(terms(config, lowering, tasks, rank, sizes) * weight)
                extra.append(seconds * weight)
        rows, extra, kept = np.array(rows), np.array(extra), [0, 1, 2]
        while True:
            rates = np.zeros(3)
            rates[kept] = np.linalg.lstsq(rows[:, kept], extra, rcond=None)[0]
            if (rates >= 0).all():
                break
            kept.remove(min(kept, key=lambda index: rates[index]))
        error = np.abs(rows @ rates - extra).mean()
        print(f"{lowering}: node {rates[0]:.2e}, byte {rates[1]:.2e}, multiply_add {rates[2]:.2e}; off by {error:.3f} of the merged graph's time on average")
    print("\n| tasks | rank | sum over shapes of time over merged: gather | masked | by-cost | over the best |\n|---|---|---|---|---|---|")
    for tasks, rank, times in figures:
        mean = {name: sum(times[name].values()) for name in ("gather", "masked", "by-cost")}
        merged = sum(times["one task, merged"].values())
        best = min(mean.values())
        print(f"| {tasks} | {rank} | {mean['gather'] / merged:.2f} | {mean['masked'] / merged:.2f} | {mean['by-cost'] / merged:.2f} | {mean['by-cost'] / best:.2f} |")


def size(folder):
    return sum((folder / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))


RESIDENT = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feed = {}
for given in session.get_inputs():
    if given.name.startswith("past"):
        feed[given.name] = numpy.zeros((8, given.shape[1], 0, given.shape[3]), numpy.float32)
    else:
        feed[given.name] = numpy.ones((8,) if given.name == "task_id" else (8, 64), numpy.int64)
feed["task_id"] = numpy.arange(8) % int(sys.argv[2])
session.run(["logits"], feed)
print(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])
"""


def resident(graph, tasks):
    """Megabytes of a process that has loaded the graph and run eight rows of 64 tokens."""
    command = [sys.executable, "-c", RESIDENT, str(graph / "model.onnx"), str(tasks)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pemlc")
    parser.add_argument("base")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", type=lambda text: [int(part) for part in text.split(",")], default=[8])
    parser.add_argument("--ranks", type=lambda text: [int(part) for part in text.split(",")], default=[16])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prefix", type=int, default=16)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--config", required=True, help="config.json of the base model, or pemlc.json of an artifact of it")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    config = json.loads(Path(arguments.config).read_text())
    bench.config = config.get("config", config)
    print(f"onnxruntime {onnxruntime.__version__}, one thread, CPU time, median of {arguments.rounds} rounds\n")
    figures = []
    for rank in arguments.ranks:
        adapters = arguments.folder / "adapters"
        most = max(arguments.tasks)
        for task in range(most):
            folder = adapters / f"r{rank}-{task}"
            if not folder.exists():
                write_lora(folder, bench.config, rank, 100 * rank + task)
        merged = bench.graph(bench.run_directory(f"merged-r{rank}", {"t0": [adapters / f"r{rank}-0"]}), "by-cost")
        for tasks in arguments.tasks:
            run = bench.run_directory(f"t{tasks}-r{rank}", {f"t{task}": [adapters / f"r{rank}-{task}"] for task in range(tasks)})
            graphs = {"one task, merged": (merged, 1)}
            for lowering in ("gather", "masked", "by-cost"):
                graphs[lowering] = (bench.graph(run, lowering), tasks)
            if rank == arguments.ranks[0] and tasks == arguments.tasks[0]:
                prefix = adapters / "prefix"
                write_prefix(prefix, bench.config, arguments.prefix, 7)
                with_prefix = bench.run_directory("prefix", {"t0": [adapters / f"r{rank}-0", prefix]})
                graphs[f"one task, merged, prefix of {arguments.prefix}"] = (bench.graph(with_prefix, "by-cost"), 1)
            print(f"{tasks} tasks, rank {rank} on all projections:\n")
            times = bench.times(graphs)
            figures.append((tasks, rank, times))
            table(times, "one task, merged")
            print()
            memory = {name: resident(graph, own) for name, (graph, own) in graphs.items()}
            for name, (graph, _) in graphs.items():
                ratios = size(graph) / size(merged), memory[name] / memory["one task, merged"]
                print(f"{name}: {size(graph) / 1e6:.0f} MB ({ratios[0]:.2f}), {memory[name]:.0f} MB resident ({ratios[1]:.2f})")
            print(flush=True)
            for lowering in ("gather", "masked", "by-cost"):
                shutil.rmtree(graphs[lowering][0])
    if arguments.fit:
        fit(bench.config, figures)


if __name__ == "__main__":
    main()
