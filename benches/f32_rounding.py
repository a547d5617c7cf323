"""Which operators' f32 rounding moves the logits of SmolLM2-135M, with deltas of rank 8 on all projections and without.

    python3 benches/f32_rounding.py SmolLM2-135M-Instruct.Q4_1.gguf

Everything is computed in f64 except one kind of operator, which is given f32 numbers and gives f32 numbers; then everything in f32, and everything in f32
with the terms of products in another order, summed in four long rows. Deltas are random, of a stated size beside the weight (Frobenius norm of `B A` over
that of `W`), merged in f32. Needs torch, numpy and gguf. Prints the largest difference of a logit from f64 at the last four of 24 tokens.
"""

import math
import sys

import gguf
import numpy as np
import torch

LAYERS, HEADS, GROUPS, WIDTH, RANK = 30, 9, 3, 64, 8
PROJECTIONS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
KINDS = ("products", "attention products", "softmax", "norms", "angles", "rotation", "swiglu", "residual sums", "head")


def load(path):
    tensors = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        tensors[tensor.name] = torch.tensor(values.reshape([int(size) for size in reversed(tensor.shape)]))
    for layer in range(LAYERS):
        # The file alternates the two rotary halves of each head's rows.
        for name, heads in (("attn_q", HEADS), ("attn_k", GROUPS)):
            key = f"blk.{layer}.{name}.weight"
            tensors[key] = tensors[key].reshape(heads, WIDTH // 2, 2, -1).swapaxes(1, 2).reshape(heads * WIDTH, -1)
    return tensors


def with_deltas(tensors, size, seed):
    random = torch.Generator().manual_seed(seed)
    tensors = dict(tensors)
    for layer in range(LAYERS):
        for name in PROJECTIONS:
            key = f"blk.{layer}.{name}.weight"
            weight = tensors[key]
            delta = torch.randn(weight.shape[0], RANK, generator=random) @ torch.randn(RANK, weight.shape[1], generator=random)
            tensors[key] = weight + delta * (size * weight.norm() / delta.norm())
    return tensors


class Arithmetic:
    """f64, but for the operators of one kind; or f32 throughout, products perhaps in another order."""

    def __init__(self, kind=None, f32=False, reordered=False):
        self.kind, self.reordered, self.dtype = kind, reordered, torch.float32 if f32 else torch.float64
        self.orders = {}

    def run(self, kind, operator, *values):
        if kind != self.kind:
            return operator(*values)
        return operator(*[value.float() for value in values]).double()

    def product(self, kind, x, weight):
        if not self.reordered:
            return self.run(kind, lambda x, weight: x @ weight.T, x, weight)
        terms = x.shape[-1]
        order = self.orders.setdefault(terms, torch.randperm(terms, generator=torch.Generator().manual_seed(terms)))
        return sum(x[..., part] @ weight[:, part].T for part in order.chunk(4))


def logits(tensors, tokens, a):
    cast = lambda tensor: tensor.to(a.dtype)
    rates = torch.tensor([100000.0 ** (-2 * i / WIDTH) for i in range(WIDTH // 2)], dtype=torch.float64).float()
    positions = cast(torch.arange(len(tokens)))[:, None]
    cos, sin = (a.run("angles", lambda p, r: f(p * r), positions, cast(rates)) for f in (torch.cos, torch.sin))
    cos, sin = torch.cat([cos, cos], -1)[:, None], torch.cat([-sin, sin], -1)[:, None]
    swap = lambda t: torch.cat([t[..., WIDTH // 2:], t[..., :WIDTH // 2]], -1)
    rotate = lambda t: a.run("rotation", lambda t, c, s: t * c + swap(t) * s, t, cos, sin)
    norm = lambda x, name: a.run("norms", lambda x, w: x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * w, x, cast(tensors[name]))
    add = lambda x, y: a.run("residual sums", torch.add, x, y)
    count = len(tokens)
    mask = torch.full((count, count), -math.inf, dtype=a.dtype).triu(1)
    x = cast(tensors["token_embd.weight"])[tokens]
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        project = lambda name, x: a.product("products", x, cast(tensors[f"{at}{name}.weight"]))
        h = norm(x, at + "attn_norm.weight")
        q, k = rotate(project("attn_q", h).view(count, HEADS, WIDTH)), rotate(project("attn_k", h).view(count, GROUPS, WIDTH))
        v = project("attn_v", h).view(count, GROUPS, WIDTH).permute(1, 0, 2)[:, None]
        q = (q / math.sqrt(WIDTH)).view(count, GROUPS, HEADS // GROUPS, WIDTH).permute(1, 2, 0, 3)
        scores = a.run("attention products", torch.matmul, q, k.permute(1, 2, 0)[:, None]) + mask
        shares = a.run("softmax", lambda s: torch.softmax(s, -1), scores)
        mixed = a.run("attention products", torch.matmul, shares, v).permute(2, 0, 1, 3).reshape(count, HEADS * WIDTH)
        x = add(x, project("attn_output", mixed))
        h = norm(x, at + "ffn_norm.weight")
        gated = a.run("swiglu", lambda g, u: g * torch.sigmoid(g) * u, project("ffn_gate", h), project("ffn_up", h))
        x = add(x, project("ffn_down", gated))
    return a.product("head", norm(x, "output_norm.weight"), cast(tensors["token_embd.weight"]))[-4:].double()


def main():
    base = load(sys.argv[1])
    cases = [("none", base)] + [(f"{size:g}", with_deltas(base, size, 0)) for size in (0.3, 1.0)]
    tokens = torch.randint(5, 49000, (24,), generator=torch.Generator().manual_seed(0))
    columns = []
    for _, tensors in cases:
        exact = logits(tensors, tokens, Arithmetic())
        off = lambda arithmetic: f"{(logits(tensors, tokens, arithmetic) - exact).abs().max().item():.1e}"
        column = [f"{exact.abs().max().item():.0f}"] + [off(Arithmetic(kind)) for kind in KINDS]
        columns.append(column + [off(Arithmetic(f32=True)), off(Arithmetic(f32=True, reordered=True))])
    print("| in f32 | " + " | ".join(f"deltas: {name}" for name, _ in cases) + " |\n|---" * 1 + "|---" * len(cases) + "|")
    for row, name in enumerate(("(largest logit)",) + KINDS + ("everything", "everything, products in another order")):
        print(f"| {name} | " + " | ".join(column[row] for column in columns) + " |")


if __name__ == "__main__":
    main()
