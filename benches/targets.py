"""What targets cost: CPU time of graphs for each target over the graph of opset 18.

    python3 benches/targets.py PEMLC BASE_MODEL FOLDER --config CONFIG [--targets onnx-23,ort-23] [--dtype f16] [--shapes "decode B1 past 512"]

PEMLC is the binary, BASE_MODEL what `pemlc import --base` takes, FOLDER a place for some gigabytes. Random adapters on all projections and a prefix for
each task are written as PEFT folders, imported, and exported once for each target. Every target takes turns with opset 18, one run each a round, two
sessions at a time; a figure is the median over rounds of the ratio of the process's CPU time on one thread. What is exported stays in FOLDER:
`--prepare` only exports. Needs numpy and onnxruntime.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime
from task_switch import Bench, write_lora, write_prefix

SHAPES = {
    "prefill B8 S64": (8, 64, 0),
    "prefill B1 S64": (1, 64, 0),
    "decode B8 past 64": (8, 1, 64),
    "decode B1 past 64": (1, 1, 64),
    "decode B8 past 512": (8, 1, 512),
    "decode B1 past 512": (1, 1, 512),
}
TARGETS = ["onnx-23", "onnx-24", "ort-18", "ort-23"]


class Targets(Bench):
    def exported(self, run, target):
        operators, opset = target.split("-")
        out = self.folder / f"target-{run.name[4:]}-{target}-{self.arguments.dtype}"
        if not (out / "pemlc.json").exists():
            chosen = ("--target", operators, "--opset", opset, "--dtype", self.arguments.dtype)
            self.pemlc("export", run, out, "--no-check", *chosen)
        return out

    def times(self, sessions, shape, tasks):
        """CPU seconds of each session, one list a round."""
        feed = self.feed(shape, tasks)
        if self.arguments.dtype == "f16":
            feed = {name: value.astype(np.float16) if value.dtype == np.float32 else value for name, value in feed.items()}
        repeats = 1 if shape[1] > 1 else 5
        rounds = []
        for number in range(self.arguments.rounds + 1):
            seconds = []
            for session in sessions:
                start = time.process_time()
                for _ in range(repeats):
                    session.run(["logits"], feed)
                seconds.append((time.process_time() - start) / repeats)
            if number > 0:  # the first one warms up
                rounds.append(seconds)
        return rounds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pemlc")
    parser.add_argument("base")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--prefix", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--targets", type=lambda text: text.split(","), default=TARGETS)
    parser.add_argument("--shapes", type=lambda text: text.split(","), default=list(SHAPES))
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--config", required=True, help="config.json of the base model, or pemlc.json of an artifact of it")
    arguments = parser.parse_args()
    bench = Targets(arguments)
    config = json.loads(Path(arguments.config).read_text())
    bench.config = config.get("config", config)

    adapters, tasks = arguments.folder / "adapters", {}
    for task in range(arguments.tasks):
        lora, prefix = adapters / f"r{arguments.rank}-{task}", adapters / f"p{arguments.prefix}-{task}"
        tasks[f"t{task}"] = [lora]
        if not lora.exists():
            write_lora(lora, bench.config, arguments.rank, 100 * arguments.rank + task)
        if arguments.prefix > 0:
            tasks[f"t{task}"].append(prefix)
            if not prefix.exists():
                write_prefix(prefix, bench.config, arguments.prefix, task)
    run = bench.run_directory(f"t{arguments.tasks}-r{arguments.rank}-p{arguments.prefix}", tasks)
    graphs = {target: bench.exported(run, target) for target in ["onnx-18", *arguments.targets]}
    if arguments.prepare:
        return
    print(f"onnxruntime {onnxruntime.__version__}, one thread, CPU time, median of {arguments.rounds} rounds, {arguments.dtype}")
    print(f"{arguments.tasks} tasks, rank {arguments.rank} on all projections, prefix of {arguments.prefix}\n")
    print("| target over opset 18 | " + " | ".join(arguments.shapes) + " |\n|---" * 1 + "|---" * len(arguments.shapes) + "|")
    base = bench.session(graphs["onnx-18"])
    for target in arguments.targets:
        pair = [base, bench.session(graphs[target])]
        cells = []
        for shape in arguments.shapes:
            rounds = bench.times(pair, SHAPES[shape], arguments.tasks)
            ratio = statistics.median(own / other for other, own in rounds)
            cells.append(f"{ratio:.2f} ({1000 * statistics.median(other for other, _ in rounds):.0f} ms)")
        print(f"| {target} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
