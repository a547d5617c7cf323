"""What the task switch costs: CPU time of graphs with many tasks over the graph of one merged task.

    python3 benches/task_switch.py PEMLC FOLDER [--layers 10] [--tasks 8] [--ranks 16] [--rounds 7] [--fit]

PEMLC is the binary, FOLDER a place for some gigabytes. Writes a model of SmolLM2-135M's widths with random weights and so many layers, random adapters
on all projections for each task, and exports them once for each lowering; what is there already is not written again (`--prepare` does no more than
that). All graphs of one (tasks, rank) take turns, one run each a round; a figure is the least over the rounds of the process's CPU time on one thread
(of wall time with `--threads 2`): other work on the machine only adds. Figures are kept in FOLDER/figures.json; `--fit` fits the rates of the cost
model (passes/task_switch/cost.rs) to all of them and says how far the choice of by-cost is from the best. Needs numpy and onnxruntime.
"""

import argparse
import hashlib
import json
import shutil
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
FITTED = ("gather", "masked", "appended")
# Columns of all tasks beyond which lowerings that read them all are not measured: they take many times the projection's own time.
MOST_COLUMNS = 512
MERGED = "one task, merged"


def config_of(layers):
    return {
        "family": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": layers, "num_attention_heads": 9, "num_key_value_heads": 3,
        "head_dim": 64, "vocab_size": 49152, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "rope_scaling": None,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_ids": [2], "pad_token_id": 2,
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


def record(path):
    return {"path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}


def widths(config, module):
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    heads, groups, width = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    return {
        "q_proj": (hidden, heads * width), "k_proj": (hidden, groups * width), "v_proj": (hidden, groups * width),
        "o_proj": (heads * width, hidden), "gate_proj": (hidden, mlp), "up_proj": (hidden, mlp), "down_proj": (mlp, hidden),
    }[module]


def write_lora(folder, config, rank, seed, down_seed=None):
    """With `down_seed`, adapters of one such seed have one A."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    downs = random if down_seed is None else np.random.default_rng(down_seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for block, modules in MODULES.items():
            for module in modules:
                inputs, outputs = widths(config, module)
                name = f"base_model.model.model.layers.{layer}.{block}.{module}"
                tensors[f"{name}.lora_A.weight"] = downs.normal(0, 0.02, (rank, inputs))
                tensors[f"{name}.lora_B.weight"] = random.normal(0, 0.02, (outputs, rank))
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    targets = [module for modules in MODULES.values() for module in modules]
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets, "task_type": "CAUSAL_LM", "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def write_model(folder, config):
    folder.mkdir(parents=True)
    random = np.random.default_rng(3)
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]

    def matrix(*shape):
        return 0.02 * random.standard_normal(shape, dtype=np.float32)

    tensors = {"model.embed_tokens.weight": matrix(vocabulary, hidden), "lm_head.weight": matrix(vocabulary, hidden), "model.norm.weight": np.ones(hidden)}
    for layer in range(config["num_hidden_layers"]):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = np.ones(hidden)
        for block, modules in MODULES.items():
            for module in modules:
                inputs, outputs = widths(config, module)
                tensors[f"model.layers.{layer}.{block}.{module}.weight"] = matrix(outputs, inputs)
    write_safetensors(folder / "model.safetensors", tensors)
    stored = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32", "hidden_act": "silu", "eos_token_id": 2, **config}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in stored.items() if key not in ("family", "eos_token_ids")}))
    fixture = Path(__file__).resolve().parent.parent / "fixtures/tiny-model"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(fixture / name, folder / name)


class Bench:
    def __init__(self, arguments):
        self.arguments, self.folder = arguments, arguments.folder / f"layers-{arguments.layers}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = config_of(arguments.layers)
        self.base = self.folder / "model"
        if not (self.base / "config.json").exists():
            write_model(self.base, self.config)
        self.files = [record(self.base / name) for name in ("model.safetensors", "config.json")]

    def run_directory(self, name, tasks, rank, prefix=None, one_down=False):
        """A run whose tasks each have an adapter of `rank`, and with `prefix` so many rows that all of them share."""
        run = self.folder / f"run-{name}"
        if (run / "run.json").exists():
            return run
        shutil.rmtree(run, ignore_errors=True)
        for task in range(tasks):
            write_lora(run / f"adapters/t{task}/lora", self.config, rank, 100 * rank + task, 7 if one_down else None)
        if prefix:
            self.write_prefix(run / "prompt", prefix)
        described = {"metric": "accuracy", "train_examples": 0, "validation_examples": 0, "base_score": None, "score": None, "template": "{text}", "verbalizers": []}
        costs = dict.fromkeys(("search_seconds", "training_seconds", "evaluation_seconds"), 0.0)
        costs.update(dict.fromkeys(("optimizer_steps", "tokens", "trainable_parameters", "peak_memory_bytes"), 0))
        targets = [module for modules in MODULES.values() for module in modules]
        (run / "run.json").write_text(json.dumps({
            "schema_version": 1, "pemlc_version": "0.0.0", "method": "lora", "seed": 0, "device": "cpu", "base_dtype": "f32", "files": [], "costs": costs,
            "base": {"path": str(self.base.resolve()), "name": "random", "licence": None, "config": self.config, "files": self.files},
            "tasks": [{"name": f"t{task}", **described} for task in range(tasks)],
            "lora": {"rank": rank, "alpha": float(rank), "targets": targets, "shared": False, "per_task": True},
            "prefix": {"length": prefix, "per_task": False, "gated": False} if prefix else None,
        }))
        return run

    def write_prefix(self, folder, rows):
        folder.mkdir(parents=True, exist_ok=True)
        random, shape = np.random.default_rng(7), (self.config["num_key_value_heads"], rows, self.config["head_dim"])
        table = {}
        for layer in range(self.config["num_hidden_layers"]):
            table[f"tasks.0.layers.{layer}.key"] = random.normal(0, 0.3, shape)
            table[f"tasks.0.layers.{layer}.value"] = random.normal(0, 0.3, shape)
            table[f"tasks.0.layers.{layer}.log_gate"] = np.zeros(rows)
        write_safetensors(folder / "prefix.safetensors", table)

    def graph(self, run, lowering, *options):
        out = self.folder / f"graph-{run.name[4:]}-{'-'.join((lowering, *options)).replace('--', '')}"
        if not (out / "pemlc.json").exists():
            command = [self.arguments.pemlc, "export", str(run), str(out), "--no-check", "--force", "--task-switch", lowering, *options]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return out

    def session(self, graph):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.arguments.threads
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
        """{name: {shape: least seconds}} of {name: (graph, tasks)}, all in turn."""
        clock = time.process_time if self.arguments.threads == 1 else time.perf_counter
        found = {name: {shape: [] for shape in SHAPES} for name in graphs}
        sessions = {name: (self.session(graph), tasks) for name, (graph, tasks) in graphs.items()}
        for round in range(self.arguments.rounds + 1):
            for shape, sizes in SHAPES.items():
                repeats = 1 if sizes[1] > 1 else 5
                # Another one begins each round: the first after another size finds colder caches.
                names = list(sessions)
                for name in names[round % len(names):] + names[:round % len(names)]:
                    session, tasks = sessions[name]
                    feed = self.feed(sizes, tasks)
                    start = clock()
                    for _ in range(repeats):
                        session.run(["logits"], feed)
                    if round > 0:  # the first one warms up
                        found[name][shape].append((clock() - start) / repeats)
        return {name: {shape: min(times) for shape, times in shapes.items()} for name, shapes in found.items()}


def table(times):
    print("| graph | " + " | ".join(SHAPES) + " |\n|---" * 1 + "|---" * len(SHAPES) + "|")
    for name, shapes in times.items():
        cells = [f"{1000 * seconds:.1f} ms" if name == MERGED else f"{seconds / times[MERGED][shape]:.2f}" for shape, seconds in shapes.items()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def terms(inputs, outputs, lowering, tasks, rank, shape):
    """Nodes, numbers of factors, multiply-adds and numbers of activations of one delta in a run, as passes/task_switch/cost.rs counts them."""
    batch, sequence, _ = shape
    tokens, columns = batch * sequence, tasks * rank
    if lowering == "gather":
        factors = (inputs + outputs) * rank
        return np.array((5, batch * factors, tokens * factors, tokens * (rank + outputs)))
    factors = (inputs + outputs) * columns
    if lowering == "masked":
        return np.array((4, factors, tokens * factors, tokens * (columns + outputs)))
    return np.array((3, factors, tokens * factors, tokens * (inputs + 2 * columns)))


def total(config, lowering, tasks, rank, shape):
    sites = [widths(config, module) for modules in MODULES.values() for module in modules]
    return config["num_hidden_layers"] * sum(terms(inputs, outputs, lowering, tasks, rank, shape) for inputs, outputs in sites)


def fit(config, figures):
    """Least squares of relative errors, no rate below zero: a rate that would be is left out."""
    rates = {}
    # The projections and the head are nearly all of the merged graph: read once, and a product with every token.
    sites = [widths(config, module) for modules in MODULES.values() for module in modules]
    numbers = config["num_hidden_layers"] * sum(inputs * outputs for inputs, outputs in sites) + config["hidden_size"] * config["vocab_size"]
    merged = [(sizes[0] * sizes[1], figure["times"][MERGED][shape]) for figure in figures for shape, sizes in SHAPES.items()]
    own = np.array([(numbers / seconds, tokens * numbers / seconds) for tokens, seconds in merged])
    factor, product = np.linalg.lstsq(own, np.ones(len(merged)), rcond=None)[0]
    print(f"projection: factor {factor:.2e}, product {product:.2e}; off by {np.abs(own @ (factor, product) - 1).mean():.3f} of its time on average")
    for lowering in FITTED:
        rows, extra = [], []
        for figure in figures:
            times = figure["times"]
            if lowering not in times:
                continue
            for shape, sizes in SHAPES.items():
                weight = 1 / times[MERGED][shape]
                rows.append(total(config, lowering, figure["tasks"], figure["rank"], sizes) * weight)
                extra.append((times[lowering][shape] - times[MERGED][shape]) * weight)
        rows, extra, kept = np.array(rows), np.array(extra), [0, 1, 2, 3]
        while True:
            found = np.zeros(4)
            found[kept] = np.linalg.lstsq(rows[:, kept], extra, rcond=None)[0]
            if (found >= 0).all():
                break
            kept.remove(min(kept, key=lambda index: found[index]))
        rates[lowering] = found
        error = np.abs(rows @ found - extra).mean()
        values = ", ".join(f"{name} {value:.2e}" for name, value in zip(("node", "factor", "product", "activation"), found))
        print(f"{lowering}: {values}; off by {error:.3f} of the merged graph's time on average")
    return rates


def compare(figures):
    """How far by-cost is from the best measured lowering, for each size and over all sizes."""
    print("\n| tasks | rank | " + " | ".join(f"{shape}: best, by-cost over it" for shape in SHAPES) + " | all four: best, by-cost over it |")
    print("|---" * (len(SHAPES) + 3) + "|")
    for figure in figures:
        times = figure["times"]
        if "by-cost" not in times:
            continue
        known = [name for name in FITTED if name in times]
        cells = []
        for shapes in [[shape] for shape in SHAPES] + [list(SHAPES)]:
            # Every size counts the same: the mean of the ratios to the merged graph.
            mean = {name: sum(times[name][shape] / times[MERGED][shape] for shape in shapes) for name in [*known, "by-cost"]}
            best = min(known, key=lambda name: mean[name])
            cells.append(f"{best} {mean[best] / len(shapes):.2f}, {mean['by-cost'] / mean[best]:.2f}")
        print(f"| {figure['tasks']} | {figure['rank']} | " + " | ".join(cells) + " |")


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
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--tasks", type=lambda text: [int(part) for part in text.split(",")], default=[8])
    parser.add_argument("--ranks", type=lambda text: [int(part) for part in text.split(",")], default=[16])
    parser.add_argument("--lowerings", type=lambda text: text.split(","), default=[*FITTED, "by-cost"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prefix", type=int, help="also one merged task with so many prefix rows")
    parser.add_argument("--others", action="store_true", help="also the lowerings that are not for every run: scalar, shared-basis (of tasks with one A)")
    parser.add_argument("--memory", action="store_true", help="also files and resident memory")
    parser.add_argument("--prepare", action="store_true", help="write and export, measure nothing")
    parser.add_argument("--clean", action="store_true", help="remove a setting's graphs and run once they are measured")
    parser.add_argument("--fit", action="store_true", help="fit the cost model to the figures kept, measure nothing")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    kept = bench.folder / "figures.json"
    figures = json.loads(kept.read_text()) if kept.exists() else []
    if arguments.fit:
        figures.sort(key=lambda figure: (figure["rank"], figure["tasks"]))
        fit(bench.config, figures)
        compare(figures)
        return
    clock = "CPU time, one thread" if arguments.threads == 1 else f"wall time, {arguments.threads} threads"
    print(f"onnxruntime {onnxruntime.__version__}, {arguments.layers} layers, {clock}, least of {arguments.rounds} rounds\n")
    merged = bench.graph(bench.run_directory("merged", 1, 16), "by-cost")
    for rank in arguments.ranks:
        for tasks in arguments.tasks:
            run = bench.run_directory(f"t{tasks}-r{rank}", tasks, rank)
            graphs = {MERGED: (merged, 1)}
            for lowering in arguments.lowerings:
                if lowering in ("masked", "appended") and tasks * rank > MOST_COLUMNS:
                    continue
                graphs[lowering] = (bench.graph(run, lowering), tasks)
            if arguments.others:
                graphs["scalar, one task a batch"] = (bench.graph(run, "scalar"), 1)
                one_down = bench.run_directory(f"one-a-t{tasks}-r{rank}", tasks, rank, one_down=True)
                graphs["shared-basis, tasks with one A"] = (bench.graph(one_down, "shared-basis"), tasks)
            if arguments.prefix:
                with_prefix = bench.run_directory("prefix", 1, 16, arguments.prefix)
                graphs[f"one task, merged, prefix of {arguments.prefix}"] = (bench.graph(with_prefix, "by-cost"), 1)
            if not arguments.prepare:
                print(f"{tasks} tasks, rank {rank} on all projections:\n")
                times = bench.times(graphs)
                table(times)
                print(flush=True)
                if arguments.threads == 1:
                    # What another call measured of the same setting stays.
                    before = [figure for figure in figures if (figure["tasks"], figure["rank"]) == (tasks, rank)]
                    figures = [figure for figure in figures if figure not in before]
                    times = {**(before[0]["times"] if before else {}), **times}
                    figures.append({"tasks": tasks, "rank": rank, "times": times})
                    kept.write_text(json.dumps(figures))
            if arguments.memory:
                memory = {name: resident(graph, own) for name, (graph, own) in graphs.items()}
                for name, (graph, _) in graphs.items():
                    ratios = size(graph) / size(merged), memory[name] / memory[MERGED]
                    print(f"{name}: {size(graph) / 1e6:.0f} MB ({ratios[0]:.2f}), {memory[name]:.0f} MB resident ({ratios[1]:.2f})")
                print(flush=True)
            if arguments.clean:
                for name, (graph, _) in graphs.items():
                    if name != MERGED:
                        shutil.rmtree(graph)
                shutil.rmtree(run)


if __name__ == "__main__":
    main()
