"""What forms of attention cost in ONNX Runtime: CPU time of ten layers of attention alone, over that of the primitives that exports hold.

    python3 benches/attention_operators.py [--rounds 9] [--prefix 16]

Widths are SmolLM2-135M's (nine heads of 64, three groups). Every form makes the new cache as well, without the rows of the prefix. All take turns, one
run each a round; a figure is the median over rounds of the process's CPU time on one thread. `-` is a run that ONNX Runtime refuses. Needs numpy, onnx and
onnxruntime.
"""

import argparse
import statistics
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

HEADS, GROUPS, SIZE, LAYERS = 9, 3, 64, 10
FORMS = ["primitives", "Attention", "Attention with past", "GroupQueryAttention"]
SHAPES = {
    "prefill B8 S64": (8, 64, 0),
    "prefill B1 S64": (1, 64, 0),
    "decode B8 past 64": (8, 1, 64),
    "decode B1 past 64": (1, 1, 64),
    "decode B8 past 512": (8, 1, 512),
    "decode B1 past 512": (1, 1, 512),
}


class Layers:
    """A graph of layers whose queries are the answers of the layer before; keys and values are inputs."""

    def __init__(self, form, prefix):
        self.nodes, self.prefix = [], prefix
        self.constants = [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in {
            "one": [1], "two": [2], "joined": [0, 0, HEADS * SIZE], "split": [0, 0, HEADS, SIZE], "grouped": [0, 0, GROUPS, HEADS // GROUPS, SIZE],
        }.items()]
        self.constants.append(numpy_helper.from_array(np.array(SIZE**-0.5, np.float32), "scale"))
        self.made = 0
        self.presents = []
        self.mask = "mask" if form == "primitives" else self.node("Squeeze", "mask", "one")
        x = "query"
        for _ in range(LAYERS):
            x = {"primitives": self.primitives, "Attention": self.attention}.get(form, lambda x: self.behind_past(form, x))(x)
        self.result = x

    def node(self, operator, *inputs, outputs=1, **attributes):
        names = [f"v{self.made + place}" for place in range(outputs)]
        self.made += outputs
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def keys(self):
        """The new cache, and that behind the prefix."""
        new = self.node("Transpose", self.node("Reshape", "new", "groups"), perm=[0, 2, 1, 3])
        presents = [self.node("Concat", "past", new, axis=2) for _ in range(2)]
        self.presents += presents
        return [self.node("Concat", "prefix", present, axis=2) for present in presents] if self.prefix else presents

    def primitives(self, x):
        keys, values = self.keys()
        query = self.node("Mul", self.node("Reshape", x, "split"), "scale")
        query = self.node("Transpose", self.node("Reshape", query, "grouped"), perm=[0, 2, 3, 1, 4])
        keys = self.node("Unsqueeze", self.node("Transpose", keys, perm=[0, 1, 3, 2]), "two")
        shares = self.node("Softmax", self.node("Add", self.node("MatMul", query, keys), self.mask), axis=4)
        mixed = self.node("MatMul", shares, self.node("Unsqueeze", values, "two"))
        return self.node("Reshape", self.node("Transpose", mixed, perm=[0, 3, 1, 2, 4]), "joined")

    def attention(self, x):
        keys, values = self.keys()
        query = self.node("Transpose", self.node("Reshape", x, "split"), perm=[0, 2, 1, 3])
        mixed = self.node("Attention", query, keys, values, self.mask, scale=SIZE**-0.5)
        return self.node("Reshape", self.node("Transpose", mixed, perm=[0, 2, 1, 3]), "joined")

    def behind_past(self, form, x):
        """The operator appends the new rows itself. With a prefix that is no cache to hand out, so the cache is made beside it."""
        past = ["past", "past"]
        if self.prefix:
            new = self.node("Transpose", self.node("Reshape", "new", "groups"), perm=[0, 2, 1, 3])
            self.presents += [self.node("Concat", "past", new, axis=2) for _ in range(2)]
            past = [self.node("Concat", "prefix", "past", axis=2) for _ in range(2)]
        if form == "GroupQueryAttention":
            inputs = [x, "new", "new", *past, "last", "total", "", "", "", self.mask]
            attributes = {"domain": "com.microsoft", "num_heads": HEADS, "kv_num_heads": GROUPS}
        else:
            inputs, attributes = [x, "new", "new", self.mask, *past], {"q_num_heads": HEADS, "kv_num_heads": GROUPS}
        operator = form.removesuffix(" with past")
        mixed, *presents = self.node(operator, *inputs, outputs=3, scale=SIZE**-0.5, **attributes)
        self.presents += [] if self.prefix else presents
        return mixed

    def session(self):
        def value(name, shape, dtype=TensorProto.FLOAT):
            return helper.make_tensor_value_info(name, dtype, shape)

        inputs = [
            value("query", ["batch", "sequence", HEADS * SIZE]), value("new", ["batch", "sequence", GROUPS * SIZE]),
            value("past", ["batch", GROUPS, "past", SIZE]), value("prefix", ["batch", GROUPS, self.prefix, SIZE]),
            value("mask", ["batch", 1, 1, "sequence", "keys"]), value("last", ["batch"], TensorProto.INT32), value("total", [], TensorProto.INT32),
        ]
        self.constants.append(numpy_helper.from_array(np.array([0, 0, GROUPS, SIZE], np.int64), "groups"))
        outputs = [value(name, None) for name in [self.result, *self.presents]]
        graph = helper.make_graph(self.nodes, "layers", inputs, outputs, self.constants)
        sets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        model = helper.make_model(graph, opset_imports=sets, ir_version=11)
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def feed(shape, prefix):
    batch, sequence, past = shape
    random = np.random.default_rng(1)
    total = prefix + past + sequence
    hidden = np.arange(total)[None, :] > np.arange(sequence)[:, None] + prefix + past
    mask = np.where(hidden, np.finfo(np.float32).min, np.float32(0)).astype(np.float32)
    floats = {"query": (batch, sequence, HEADS * SIZE), "new": (batch, sequence, GROUPS * SIZE), "past": (batch, GROUPS, past, SIZE),
              "prefix": (batch, GROUPS, prefix, SIZE)}
    values = {name: random.normal(size=sizes).astype(np.float32) for name, sizes in floats.items()}
    return values | {"mask": np.tile(mask, (batch, 1, 1, 1, 1)), "last": np.full(batch, total - 1, np.int32), "total": np.array(total, np.int32)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--prefix", type=int, default=16)
    arguments = parser.parse_args()
    sessions = {form: Layers(form, arguments.prefix).session() for form in FORMS}
    print(f"onnxruntime {onnxruntime.__version__}, one thread, CPU time, median of {arguments.rounds} rounds, prefix of {arguments.prefix}\n")
    print("| | " + " | ".join(FORMS) + " |\n|---" * 1 + "|---" * len(FORMS) + "|")
    for name, shape in SHAPES.items():
        given = feed(shape, arguments.prefix)
        seconds, answers = {form: [] for form in FORMS}, {}
        for number in range(arguments.rounds + 1):
            for form, session in sessions.items():
                start = time.process_time()
                try:
                    for _ in range(1 if shape[1] > 1 else 5):
                        answers[form] = session.run(None, given)[0]
                except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument:
                    continue
                if number > 0:  # the first one warms up
                    seconds[form].append((time.process_time() - start) / (1 if shape[1] > 1 else 5))
        for form, answer in answers.items():
            assert np.abs(answer - answers["primitives"]).max() < 1e-2, f"{form} answers otherwise"
        base = statistics.median(seconds["primitives"])
        ratios = [f"{statistics.median(own) / base:.2f}" if own else "-" for own in list(seconds.values())[1:]]
        print(f"| {name} | {1000 * base:.1f} ms | " + " | ".join(ratios) + " |", flush=True)


if __name__ == "__main__":
    main()
