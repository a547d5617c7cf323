"""A plain ONNX Runtime client of an artifact: one batch that mixes tasks, left padding, greedy decoding with the cache.

    python3 tests/ort_client.py ARTIFACT [--tokens 8]

Needs onnxruntime, numpy and tokenizers. Exits with 1 unless an unknown task_id makes its own row, and no other, NaN.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--tokens", type=int, default=8)
    arguments = parser.parse_args()
    manifest = json.loads((arguments.artifact / "pemlc.json").read_text())
    config, tasks = manifest["config"], [task["name"] for task in manifest["tasks"]]
    session = onnxruntime.InferenceSession(str(arguments.artifact / "model.onnx"), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(arguments.artifact / "tokenizer.json"))
    prompts = [tokenizer.encode(text).ids for text in ("The kettle", "I was charged twice for the lamp and", "Mira paints")]
    rows = [(prompts[i % 3], i % len(tasks)) for i in range(max(3, len(tasks)))]
    width = max(len(prompt) for prompt, _ in rows)
    ids = np.array([[0] * (width - len(p)) + p for p, _ in rows], dtype=np.int64)
    mask = np.array([[0] * (width - len(p)) + [1] * len(p) for p, _ in rows], dtype=np.int64)
    task = np.array([t for _, t in rows], dtype=np.int64)

    def run(ids, mask, task, past):
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1]:]
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "task_id": task}
        feeds.update({f"past_key_values.{n // 2}.{'key' if n % 2 == 0 else 'value'}": value for n, value in enumerate(past)})
        names = ["logits"] + [f"present.{n}.{part}" for n in range(config["num_hidden_layers"]) for part in ("key", "value")]
        logits, *present = session.run(names, feeds)
        return logits, present

    empty = [np.zeros((len(rows), config["num_key_value_heads"], 0, config["head_dim"]), np.float32)] * (2 * config["num_hidden_layers"])
    logits, past = run(ids, mask, task, empty)
    first = logits
    answers = [[] for _ in rows]
    for _ in range(arguments.tokens):
        token = logits[:, -1].argmax(-1)
        for answer, one in zip(answers, token):
            answer.append(int(one))
        mask = np.concatenate([mask, np.ones((len(rows), 1), np.int64)], 1)
        logits, past = run(token[:, None].astype(np.int64), mask, task, past)
    for (prompt, index), answer in zip(rows, answers):
        print(f"{tasks[index]:>12} | {tokenizer.decode(prompt)!r} -> {tokenizer.decode(answer)!r}")
    wrong = task.copy()
    wrong[0] = len(tasks)
    bad, _ = run(ids, mask[:, :width], wrong, empty)
    guarded = np.isnan(bad[0]).all() and np.allclose(bad[1:], first[1:], atol=1e-4, equal_nan=True)
    print("unknown task_id:", "its row is NaN, the others are untouched" if guarded else "ANSWERED")
    sys.exit(0 if guarded else 1)


if __name__ == "__main__":
    main()
