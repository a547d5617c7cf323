"""Greedy decoding of an artifact with plain ONNX Runtime: what every consumer's answer is compared with."""

import json
from pathlib import Path

import numpy as np
import onnxruntime

TOKENS = 12
PROMPTS = ([12, 40, 7, 90, 33], [5, 61], [301, 8, 8, 45, 2, 17, 99])


class Artifact:
    def __init__(self, directory):
        self.directory = Path(directory)
        self.manifest = json.loads((self.directory / "pemlc.json").read_text())
        self.config = self.manifest["config"]
        self.tasks = [task["name"] for task in self.manifest["tasks"]]
        self.session = onnxruntime.InferenceSession(str(self.directory / "model.onnx"), providers=["CPUExecutionProvider"])

    def greedy(self, prompt, task, tokens=TOKENS):
        """The next `tokens` tokens after `prompt` for task `task`, end tokens ignored."""
        config = self.config
        shape = (1, config["num_key_value_heads"], 0, config["head_dim"])
        names = [f"{layer}.{part}" for layer in range(config["num_hidden_layers"]) for part in ("key", "value")]
        past = [np.zeros(shape, np.float16 if self.manifest["dtype"] == "f16" else np.float32)] * len(names)
        ids, seen, answer = np.array([prompt], np.int64), 0, []
        for _ in range(tokens):
            length = seen + ids.shape[1]
            feed = {
                "input_ids": ids,
                "attention_mask": np.ones((1, length), np.int64),
                "position_ids": np.arange(seen, length, dtype=np.int64)[None],
                "task_id": np.array([task], np.int64),
            }
            feed.update({f"past_key_values.{name}": value for name, value in zip(names, past)})
            logits, *past = self.session.run(["logits"] + [f"present.{name}" for name in names], feed)
            token = int(logits[0, -1].argmax())
            answer.append(token)
            ids, seen = np.array([[token]], np.int64), length
        return answer


def verdict(consumer, rows):
    """Prints one line a comparison, (task, found, expected), and exits with 1 when any differs."""
    failed = 0
    for task, found, expected in rows:
        same = found == expected
        failed += not same
        print(f"{consumer} {task}: {'the same tokens' if same else f'{found} where {expected} was expected'}")
    print(f"{consumer}: {len(rows) - failed} of {len(rows)} agree with ONNX Runtime")
    raise SystemExit(1 if failed or not rows else 0)
