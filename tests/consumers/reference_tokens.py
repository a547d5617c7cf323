"""Prints, as JSON, what ONNX Runtime generates for every task of an artifact: for consumers that are not Python.

    python3 tests/consumers/reference_tokens.py ARTIFACT
"""

import json
import sys

from reference import PROMPTS, TOKENS, Artifact

artifact = Artifact(sys.argv[1])
rows = [
    {"task": task, "prompt": prompt, "answer": artifact.greedy(prompt, index)}
    for index, task in enumerate(artifact.tasks)
    for prompt in PROMPTS
]
print(json.dumps({"tokens": TOKENS, "rows": rows}))
