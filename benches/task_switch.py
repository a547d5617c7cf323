"""What the task switch costs: CPU time of graphs with many tasks over the graph of one merged task.

    python3 benches/task_switch.py PEMLC FOLDER [--layers 10] [--tasks 8] [--ranks 16] [--rounds 5] [--fit]

PEMLC is the binary, FOLDER a place for some gigabytes. Writes a model of SmolLM2-135M's widths with random weights and so many layers, random adapters
on all projections for each task, and exports them once for each lowering; what is there already is not written again (`--prepare` does no more than
that). How graphs are timed is said in graphs.py: CPU time on one thread, or wall time with `--threads 2`. A graph that `by-cost` made is timed once with
the lowering that it is. Figures are kept in FOLDER/figures.json; `--fit` fits the rates of the cost model (passes/task_switch/cost.rs) to all of them and
says how far the choice of by-cost is from the best. Needs numpy and onnxruntime.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from graphs import MODULES, SHAPES, Bench, widths

FITTED = ("gather", "masked", "appended")
# Columns of all tasks beyond which lowerings that read them all are not measured: they take many times the projection's own time.
MOST_COLUMNS = 512
MERGED = "one task, merged"


def table(times, same):
    print("| graph | " + " | ".join(SHAPES) + " |\n|---" * 1 + "|---" * len(SHAPES) + "|")
    for name, shapes in times.items():
        cells = [f"{1000 * seconds:.1f} ms" if name == MERGED else f"{seconds / times[MERGED][shape]:.2f}" for shape, seconds in shapes.items()]
        print(f"| {name if same[name] == name else f'{name}: {same[name]}'} | " + " | ".join(cells) + " |", flush=True)


def terms(inputs, outputs, lowering, tasks, rank, shape):
    """Nodes, numbers of factors, multiply-adds and numbers of activations of one delta in a run, as passes/task_switch/cost.rs counts them."""
    batch, sequence, _ = shape
    tokens, columns = batch * sequence, tasks * rank
    if lowering == "gather":
        factors = (inputs + outputs) * rank
        return np.array((5, batch * factors, tokens * factors, tokens * (rank + outputs)))
    factors = (inputs + outputs) * columns
    if lowering == "masked":
        return np.array((4, factors, tokens * factors, tokens * (columns + outputs)))
    return np.array((3, factors, tokens * factors, tokens * (inputs + 2 * columns)))


def total(config, lowering, tasks, rank, shape):
    sites = [widths(config, module) for modules in MODULES.values() for module in modules]
    return config["num_hidden_layers"] * sum(terms(inputs, outputs, lowering, tasks, rank, shape) for inputs, outputs in sites)


def fit(config, figures):
    """Least squares of relative errors, no rate below zero: a rate that would be is left out."""
    rates = {}
    # The projections and the head are nearly all of the merged graph: read once, and a product with every token.
    sites = [widths(config, module) for modules in MODULES.values() for module in modules]
    numbers = config["num_hidden_layers"] * sum(inputs * outputs for inputs, outputs in sites) + config["hidden_size"] * config["vocab_size"]
    merged = [(sizes[0] * sizes[1], figure["times"][MERGED][shape]) for figure in figures for shape, sizes in SHAPES.items()]
    own = np.array([(numbers / seconds, tokens * numbers / seconds) for tokens, seconds in merged])
    factor, product = np.linalg.lstsq(own, np.ones(len(merged)), rcond=None)[0]
    print(f"projection: factor {factor:.2e}, product {product:.2e}; off by {np.abs(own @ (factor, product) - 1).mean():.3f} of its time on average")
    for lowering in FITTED:
        rows, extra = [], []
        for figure in figures:
            times = figure["times"]
            if lowering not in times:
                continue
            for shape, sizes in SHAPES.items():
                weight = 1 / times[MERGED][shape]
                rows.append(total(config, lowering, figure["tasks"], figure["rank"], sizes) * weight)
                extra.append((times[lowering][shape] - times[MERGED][shape]) * weight)
        rows, extra, kept = np.array(rows), np.array(extra), [0, 1, 2, 3]
        while True:
            found = np.zeros(4)
            found[kept] = np.linalg.lstsq(rows[:, kept], extra, rcond=None)[0]
            if (found >= 0).all():
                break
            kept.remove(min(kept, key=lambda index: found[index]))
        rates[lowering] = found
        error = np.abs(rows @ found - extra).mean()
        values = ", ".join(f"{name} {value:.2e}" for name, value in zip(("node", "factor", "product", "activation"), found))
        print(f"{lowering}: {values}; off by {error:.3f} of the merged graph's time on average")
    return rates


def compare(figures):
    """How far by-cost is from the best measured lowering, for each size and over all sizes."""
    print("\n| tasks | rank | " + " | ".join(f"{shape}: best, by-cost over it" for shape in SHAPES) + " | all four: best, by-cost over it |")
    print("|---" * (len(SHAPES) + 3) + "|")
    for figure in figures:
        times = figure["times"]
        if "by-cost" not in times:
            continue
        known = [name for name in FITTED if name in times]
        cells = []
        for shapes in [[shape] for shape in SHAPES] + [list(SHAPES)]:
            # Every size counts the same: the mean of the ratios to the merged graph.
            mean = {name: sum(times[name][shape] / times[MERGED][shape] for shape in shapes) for name in [*known, "by-cost"]}
            best = min(known, key=lambda name: mean[name])
            cells.append(f"{best} {mean[best] / len(shapes):.2f}, {mean['by-cost'] / mean[best]:.2f}")
        print(f"| {figure['tasks']} | {figure['rank']} | " + " | ".join(cells) + " |")


def size(folder):
    return sum((folder / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))


RESIDENT = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feed = {}
for given in session.get_inputs():
    if given.name.startswith("past"):
        feed[given.name] = numpy.zeros((8, given.shape[1], 0, given.shape[3]), numpy.float32)
    else:
        feed[given.name] = numpy.ones((8,) if given.name == "task_id" else (8, 64), numpy.int64)
feed["task_id"] = numpy.arange(8) % int(sys.argv[2])
session.run(["logits"], feed)
print(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])
"""


def resident(graph, tasks):
    """Megabytes of a process that has loaded the graph and run eight rows of 64 tokens."""
    command = [sys.executable, "-c", RESIDENT, str(graph / "model.onnx"), str(tasks)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pemlc")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--tasks", type=lambda text: [int(part) for part in text.split(",")], default=[8])
    parser.add_argument("--ranks", type=lambda text: [int(part) for part in text.split(",")], default=[16])
    parser.add_argument("--lowerings", type=lambda text: text.split(","), default=[*FITTED, "by-cost"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prefix", type=int, help="also one merged task with so many prefix rows")
    parser.add_argument("--others", action="store_true", help="also the lowerings that are not for every run: scalar, shared-basis (of tasks with one A)")
    parser.add_argument("--memory", action="store_true", help="also files and resident memory")
    parser.add_argument("--prepare", action="store_true", help="write and export, measure nothing")
    parser.add_argument("--clean", action="store_true", help="remove a setting's graphs and run once they are measured")
    parser.add_argument("--fit", action="store_true", help="fit the cost model to the figures kept, measure nothing")
    arguments = parser.parse_args()
    bench = Bench(arguments.pemlc, arguments.folder, arguments.layers)
    kept = bench.folder / "figures.json"
    figures = json.loads(kept.read_text()) if kept.exists() else []
    if arguments.fit:
        figures.sort(key=lambda figure: (figure["rank"], figure["tasks"]))
        fit(bench.config, figures)
        compare(figures)
        return
    clock = "CPU time, one thread" if arguments.threads == 1 else f"wall time, {arguments.threads} threads"
    print(f"onnxruntime {onnxruntime.__version__}, {arguments.layers} layers, {clock}, least of {arguments.rounds} rounds\n")
    merged = bench.graph(bench.run_directory("merged", 1, 16), "by-cost")
    for rank in arguments.ranks:
        for tasks in arguments.tasks:
            run = bench.run_directory(f"t{tasks}-r{rank}", tasks, rank)
            graphs = {MERGED: (merged, 1)}
            for lowering in arguments.lowerings:
                if lowering in ("masked", "appended") and tasks * rank > MOST_COLUMNS:
                    continue
                graphs[lowering] = (bench.graph(run, lowering), tasks)
            if arguments.others:
                graphs["scalar, one task a batch"] = (bench.graph(run, "scalar"), 1)
                one_down = bench.run_directory(f"one-a-t{tasks}-r{rank}", tasks, rank, one_down=True)
                graphs["shared-basis, tasks with one A"] = (bench.graph(one_down, "shared-basis"), tasks)
            if arguments.prefix:
                with_prefix = bench.run_directory("prefix", 1, 16, arguments.prefix)
                graphs[f"one task, merged, prefix of {arguments.prefix}"] = (bench.graph(with_prefix, "by-cost"), 1)
            if not arguments.prepare:
                print(f"{tasks} tasks, rank {rank} on all projections:\n")
                times, same = bench.times(graphs, SHAPES, arguments.threads, arguments.rounds)
                table(times, same)
                print(flush=True)
                if arguments.threads == 1:
                    # What another call measured of the same setting stays.
                    before = [figure for figure in figures if (figure["tasks"], figure["rank"]) == (tasks, rank)]
                    figures = [figure for figure in figures if figure not in before]
                    times = {**(before[0]["times"] if before else {}), **times}
                    figures.append({"tasks": tasks, "rank": rank, "times": times})
                    kept.write_text(json.dumps(figures))
            if arguments.memory:
                memory = {name: resident(graph, own) for name, (graph, own) in graphs.items()}
                for name, (graph, _) in graphs.items():
                    ratios = size(graph) / size(merged), memory[name] / memory[MERGED]
                    print(f"{name}: {size(graph) / 1e6:.0f} MB ({ratios[0]:.2f}), {memory[name]:.0f} MB resident ({ratios[1]:.2f})")
                print(flush=True)
            if arguments.clean:
                for name, (graph, _) in graphs.items():
                    if name != MERGED:
                        shutil.rmtree(graph)
                shutil.rmtree(run)


if __name__ == "__main__":
    main()
