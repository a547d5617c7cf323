"""Compares the types that `pemlc inspect --shapes` infers with those of onnx's own shape inference.

    python -m venv venv && venv/bin/pip install onnx
    venv/bin/python tests/onnx_shapes.py target/debug/pemlc FOLDER_OF_MODELS

The folder `onnx/backend/test/data` of the package itself holds a hundred and fifty models. Declared types inside each model are removed
first, so that both sides infer. Exits with 1 when a dimension that both know differs.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import onnx


def stripped(path):
    model = onnx.load(path, load_external_data=False)
    del model.graph.value_info[:]
    return model


def expected(model):
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {}
    for value in inferred.graph.value_info:
        tensor = value.type.tensor_type
        if value.type.WhichOneof("value") == "tensor_type" and tensor.HasField("shape"):
            types[value.name] = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    return types


def main(binary, folder):
    compared = known = only_onnx = 0
    wrong = []
    for path in sorted(pathlib.Path(folder).rglob("*.onnx")):
        model = stripped(path)
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory) / "model.onnx"
            onnx.save(model, file)
            output = subprocess.run([binary, "inspect", file, "--shapes", "--json"], capture_output=True, check=True)
        found = {row["name"]: row["shape"] for row in json.loads(output.stdout)["values"]}
        for name, shape in expected(model).items():
            compared += 1
            own = found.get(name)
            if own is None or any(dim is None for dim in own) and None not in shape:
                only_onnx += 1
                continue
            known += 1
            pairs = list(zip(own, shape))
            if len(own) != len(shape) or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
                wrong.append(f"{path}: {name}: {own}, but onnx says {shape}")
    print("\n".join(wrong))
    print(f"{compared} values: {known - len(wrong)} agree, {only_onnx} known to onnx alone, {len(wrong)} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
