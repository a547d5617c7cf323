"""Rounding of single f32 operators in ONNX Runtime and tract, against numpy in f64: largest and root mean square error, relative.

Needs the Python packages numpy, onnx, onnxruntime and tract.
"""

import os
import tempfile

import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper

DOUBLE, SINGLE = np.float64, np.float32
random = np.random.default_rng(0)


def compare(name, nodes, x, constants, expected):
    graph = helper.make_graph(
        nodes,
        "operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "operator.onnx")
        onnx.save(model, path)
        by_ort = onnxruntime.InferenceSession(path).run(None, {"x": x})[0]
        by_tract = tract.onnx().load(path).into_model().into_runnable().run([x])[0].to_numpy()

    def errors(found):
        difference = found - expected
        return np.abs(difference).max() / np.abs(expected).max(), np.sqrt((difference**2).mean() / (expected**2).mean())

    print(f"{name:16} ort max {errors(by_ort)[0]:.1e} rms {errors(by_ort)[1]:.1e}   tract max {errors(by_tract)[0]:.1e} rms {errors(by_tract)[1]:.1e}")


for terms, width in [(576, 576), (1536, 576), (576, 1536), (576, 49152)]:
    a, w = random.normal(size=(24, terms)).astype(SINGLE), random.normal(size=(terms, width)).astype(SINGLE)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    compare(f"matmul {terms}x{width}", [node], a, {"w": w}, a.astype(DOUBLE) @ w.astype(DOUBLE))

x = random.normal(size=(24, 576)).astype(SINGLE) * 3
wide = x.astype(DOUBLE)
compare("sigmoid", [helper.make_node("Sigmoid", ["x"], ["y"])], x, {}, 1 / (1 + np.exp(-wide)))
exponentials = np.exp(wide - wide.max(-1, keepdims=True))
compare("softmax", [helper.make_node("Softmax", ["x"], ["y"], axis=-1)], x, {}, exponentials / exponentials.sum(-1, keepdims=True))
rms_norm = [
    helper.make_node("Mul", ["x", "x"], ["square"]),
    helper.make_node("ReduceMean", ["square", "axes"], ["mean"], keepdims=1),
    helper.make_node("Add", ["mean", "epsilon"], ["sum"]),
    helper.make_node("Sqrt", ["sum"], ["root"]),
    helper.make_node("Div", ["x", "root"], ["y"]),
]
constants = {"axes": np.array([-1]), "epsilon": np.array(1e-5, SINGLE)}
compare("RMS norm", rms_norm, x, constants, wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5))
angles = random.uniform(0, 60, size=(24, 32)).astype(SINGLE)
compare("cosine", [helper.make_node("Cos", ["x"], ["y"])], angles, {}, np.cos(angles.astype(DOUBLE)))
