"""What a step of the search costs over a step of LoRA: runs of the demo's tasks, interleaved, per-step seconds out of metrics.jsonl.

    cargo build --release
    python3 benches/search_overhead.py SmolLM2-135M-Instruct.Q4_1.gguf [rounds] [steps]
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEMLC = ROOT / "target/release/pemlc"
VARIANTS = {
    "lora": ["method=lora"],
    "straight-through": ["prefix.relaxation=straight_through"],
    "softmax": ["prefix.relaxation=softmax"],
    "bilevel, straight-through": ["prefix.relaxation=straight_through", "prefix.update=bilevel"],
    "bilevel, softmax": ["prefix.relaxation=softmax", "prefix.update=bilevel"],
}
# The first steps warm caches up.
SKIPPED = 3


def main():
    model, rounds, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3, int(sys.argv[3]) if len(sys.argv) > 3 else 15
    seconds = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, settings in VARIANTS.items():
            with tempfile.TemporaryDirectory() as folder:
                common = [f"model={pathlib.Path(model).resolve()}", f"training.steps={steps}", f"prefix.search_steps={steps}",
                          "prefix.score_stages=false", "evaluation.limit=1", "evaluation.base=false"]
                command = [PEMLC, "train", ROOT / "fixtures/demo/smollm2.toml", "--device", "cpu", "--output", f"{folder}/run"]
                for setting in common + settings:
                    command += ["--set", setting]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                lines = map(json.loads, open(f"{folder}/run/metrics.jsonl"))
                taken = [line["seconds"] for line in lines if "loss" in line]
                seconds[name].append(sum(taken[SKIPPED:]) / len(taken[SKIPPED:]))
    base = statistics.median(seconds["lora"])
    print("| step | seconds (median of rounds) | rounds | over LoRA |\n|---|---|---|---|")
    for name, taken in seconds.items():
        each = ", ".join(f"{value:.2f}" for value in taken)
        print(f"| {name} | {statistics.median(taken):.2f} | {each} | {statistics.median(taken) / base:.2f}x |")


main()
