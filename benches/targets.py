"""What targets and number types cost: CPU time of graphs over that of opset 18 in f32.

    python3 benches/targets.py PEMLC FOLDER [--layers 10] [--targets onnx-23-f32,ort-18-int4] [--tasks 8] [--rank 16] [--prefix 16] [--rounds 5]

A target is its operators, its opset and its number type. Model, adapters and prefix are random, as task_switch.py makes them (the same FOLDER serves both);
how graphs are timed is said in graphs.py. Needs numpy and onnxruntime.
"""

import argparse
from pathlib import Path

import onnxruntime
from graphs import SHAPES, Bench

LONG = {"decode B8 past 512": (8, 1, 512), "decode B1 past 512": (1, 1, 512)}
BASE = "onnx-18-f32"
TARGETS = ["onnx-23-f32", "onnx-24-f32", "ort-18-f32", "ort-23-f32", "onnx-18-f16", "ort-18-f16", "onnx-21-int8", "onnx-21-int4", "ort-18-int8", "ort-18-int4"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pemlc")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--prefix", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--targets", type=lambda text: text.split(","), default=TARGETS)
    arguments = parser.parse_args()
    bench = Bench(arguments.pemlc, arguments.folder, arguments.layers)
    run = bench.run_directory(f"t{arguments.tasks}-r{arguments.rank}-p{arguments.prefix}", arguments.tasks, arguments.rank, arguments.prefix)
    graphs = {}
    for target in [BASE, *arguments.targets]:
        operators, opset, dtype = target.split("-")
        graphs[target] = (bench.graph(run, "gather", "--target", operators, "--opset", opset, "--dtype", dtype), arguments.tasks)
    clock = "CPU time, one thread" if arguments.threads == 1 else f"wall time, {arguments.threads} threads"
    print(f"onnxruntime {onnxruntime.__version__}, {arguments.layers} layers, {clock}, least of {arguments.rounds} processes")
    print(f"{arguments.tasks} tasks, rank {arguments.rank} on all projections, gather, a prefix of {arguments.prefix} rows\n")
    shapes = SHAPES | LONG
    times, same = bench.times(graphs, shapes, arguments.threads, arguments.rounds)
    print("| target | MB | " + " | ".join(shapes) + " |\n|---|---" + "|---" * len(shapes) + "|")
    for target, found in times.items():
        folder, _ = graphs[target]
        megabytes = sum((folder / name).stat().st_size for name in ("model.onnx", "model.onnx.data")) / 1e6
        cells = [f"{1000 * seconds:.1f} ms" if target == BASE else f"{seconds / times[BASE][shape]:.2f}" for shape, seconds in found.items()]
        name = target if same[target] == target else f"{target}: {same[target]}"
        print(f"| {name} | {megabytes:.0f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
