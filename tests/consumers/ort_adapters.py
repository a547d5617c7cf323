"""ONNX Runtime's own adapters (`pemlc export --also ort-adapters`): one graph, a file for each task.

    python3 tests/consumers/ort_adapters.py ARTIFACT

Needs onnxruntime; seen with 1.32. Also checks that the graph without an adapter answers NaN and not as the base model.
"""

import sys

import numpy as np
import onnxruntime

from reference import PROMPTS, Artifact, verdict

artifact = Artifact(sys.argv[1])
config = artifact.config
session = onnxruntime.InferenceSession(str(artifact.directory / "adapters.onnx"), providers=["CPUExecutionProvider"])
names = [f"{layer}.{part}" for layer in range(config["num_hidden_layers"]) for part in ("key", "value")]


def run(prompt, options):
    feed = {
        "input_ids": np.array([prompt], np.int64),
        "attention_mask": np.ones((1, len(prompt)), np.int64),
        "position_ids": np.arange(len(prompt), dtype=np.int64)[None],
    }
    empty = np.zeros((1, config["num_key_value_heads"], 0, config["head_dim"]), np.float32)
    feed.update({f"past_key_values.{name}": empty for name in names})
    return session.run(["logits"], feed, options)[0][0, -1]


rows = []
for index, task in enumerate(artifact.tasks):
    adapter = onnxruntime.LoraAdapter()
    adapter.Load(str(artifact.directory / "onnx_adapters" / f"{task}.onnx_adapter"))
    options = onnxruntime.RunOptions()
    options.add_active_adapter(adapter)
    for prompt in PROMPTS:
        rows.append((task, [int(run(prompt, options).argmax())], artifact.greedy(prompt, index, tokens=1)))
rows.append(("without an adapter: NaN", bool(np.isnan(run(PROMPTS[0], onnxruntime.RunOptions())).all()), True))
verdict("onnxruntime adapters", rows)
