"""onnxruntime-genai on an artifact, `task_id` given with set_model_input, and on the folder of each task.

    python3 tests/consumers/genai_folder.py ARTIFACT

Needs onnxruntime-genai and onnxruntime; seen with 0.18.0 and 1.32.
"""

import sys

import numpy as np
import onnxruntime_genai as genai

from reference import PROMPTS, TOKENS, Artifact, verdict

artifact = Artifact(sys.argv[1])


def generate(model, prompt, task_ids=None):
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + TOKENS, do_sample=False)
    generator = genai.Generator(model, parameters)
    if task_ids is not None:
        generator.set_model_input("task_id", task_ids)
    generator.append_tokens(np.array(prompt, dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return until_end([int(token) for token in generator.get_sequence(0)[len(prompt):]])


def until_end(tokens):
    """The library stops at an end token."""
    ends = [place for place, token in enumerate(tokens) if token in artifact.config["eos_token_ids"]]
    return tokens[: ends[0]] if ends else tokens


rows = []
mixed = genai.Model(str(artifact.directory))
folders = artifact.directory / "tasks"
for index, task in enumerate(artifact.tasks):
    # The library does not copy the array: it has to live as long as the generator.
    task_ids = np.array([index], np.int64)
    pinned = genai.Model(str(folders / task)) if folders.is_dir() else None
    for prompt in PROMPTS:
        expected = until_end(artifact.greedy(prompt, index))
        rows.append((f"{task} by task_id", generate(mixed, prompt, task_ids), expected))
        if pinned:
            rows.append((f"{task} in its folder", generate(pinned, prompt), expected))
verdict("onnxruntime-genai", rows)
