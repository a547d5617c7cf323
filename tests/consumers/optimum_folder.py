"""Optimum's ORTModelForCausalLM on the folder of each task (`pemlc export --also task-folders`).

    python3 tests/consumers/optimum_folder.py ARTIFACT

Needs optimum-onnx[onnxruntime]; seen with optimum-onnx 0.1.0, transformers 4.57, onnxruntime 1.32.
"""

import sys

import torch
from optimum.onnxruntime import ORTModelForCausalLM

from reference import PROMPTS, TOKENS, Artifact, verdict

artifact = Artifact(sys.argv[1])
rows = []
for index, task in enumerate(artifact.tasks):
    model = ORTModelForCausalLM.from_pretrained(artifact.directory / "tasks" / task)
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=TOKENS, max_new_tokens=TOKENS, eos_token_id=None)
        rows.append((task, out[0, len(prompt):].tolist(), artifact.greedy(prompt, index)))
verdict("optimum", rows)
