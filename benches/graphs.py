"""What the benchmarks of graphs share: models of SmolLM2-135M's widths with random weights, runs of random adapters, exports, and their timing.

A graph is timed in a process of its own, several times: where a session's memory happens to lie makes up to 0.2 of a decoding step. Graphs take
turns, each round beginning with another one; a figure is the least that any of its processes saw, for other work on the machine only adds.
"""

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

# Rows, new tokens, tokens in the cache.
PREFILL = {"prefill B8 S64": (8, 64, 0), "prefill B1 S64": (1, 64, 0)}
SHAPES = {**PREFILL, "decode B8": (8, 1, 64), "decode B1": (1, 1, 64)}
MODULES = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


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
    def __init__(self, pemlc, folder, layers):
        self.pemlc, self.folder = pemlc, folder / f"layers-{layers}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = config_of(layers)
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
            command = [self.pemlc, "export", str(run), str(out), "--no-check", "--force", "--task-switch", lowering, *options]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return out

    def feed(self, shape, tasks, dtype=np.float32):
        batch, sequence, past = shape
        config = self.config
        feed = {
            "input_ids": np.random.default_rng(1).integers(5, 1000, (batch, sequence)),
            "attention_mask": np.ones((batch, past + sequence), np.int64),
            "position_ids": np.tile(np.arange(past, past + sequence), (batch, 1)),
            "task_id": np.arange(batch, dtype=np.int64) % tasks,
        }
        cache = np.random.default_rng(2).normal(0, 1, (batch, config["num_key_value_heads"], past, config["head_dim"])).astype(dtype)
        for layer in range(config["num_hidden_layers"]):
            feed[f"past_key_values.{layer}.key"] = feed[f"past_key_values.{layer}.value"] = cache
        return feed

    def time_here(self, graph, tasks, shapes, threads, repeats):
        """{shape: least seconds} of a new session in this process."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(graph / "model.onnx"), options, providers=["CPUExecutionProvider"])
        dtype = np.float16 if any(given.type == "tensor(float16)" for given in session.get_inputs()) else np.float32
        clock = time.process_time if threads == 1 else time.perf_counter
        found = {}
        for name, shape in shapes.items():
            feed, seconds = self.feed(shape, tasks, dtype), []
            for number in range((1 if shape[1] > 1 else 10) * repeats + 1):
                start = clock()
                session.run(["logits"], feed)
                if number > 0:  # the first one warms up
                    seconds.append(clock() - start)
            found[name] = min(seconds)
        return found

    def times(self, graphs, shapes, threads, rounds, repeats=2):
        """{name: {shape: least seconds}} of {name: (graph, tasks)}. Graphs that are byte for byte another one are that one."""
        same, found = {}, {}
        for name, (graph, tasks) in graphs.items():
            text = hashlib.sha256((graph / "model.onnx").read_bytes()).hexdigest(), tasks
            same[name] = next((other for other in same if same[other] == other and found[other]["text"] == text), name)
            found[name] = {"text": text, "times": {shape: [] for shape in shapes}}
        names = [name for name in graphs if same[name] == name]
        for number in range(rounds):
            for name in names[number % len(names):] + names[:number % len(names)]:
                graph, tasks = graphs[name]
                given = {"graph": str(graph), "tasks": tasks, "shapes": shapes, "threads": threads, "repeats": repeats, "config": self.config}
                done = subprocess.run([sys.executable, __file__], input=json.dumps(given), capture_output=True, text=True)
                if done.returncode != 0:
                    sys.exit(f"{graph}: {done.stderr}")
                for shape, seconds in json.loads(done.stdout).items():
                    found[name]["times"][shape].append(seconds)
        times = {name: {shape: min(seconds) for shape, seconds in found[name]["times"].items()} for name in names}
        return {name: times[same[name]] for name in graphs}, same


if __name__ == "__main__":
    given = json.load(sys.stdin)
    bench = Bench.__new__(Bench)
    bench.config = given["config"]
    print(json.dumps(bench.time_here(Path(given["graph"]), given["tasks"], given["shapes"], given["threads"], given["repeats"])))
