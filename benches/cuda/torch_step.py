"""One PyTorch training step of LoRA + prefix on random weights: the baseline for `pemlc-bench train-step`.

Same shapes, data types and counts: frozen base in --dtype, f32 adapters of rank --rank on all seven projections, --prefix trained
key-value rows in every layer, AdamW, one fixed batch of random tokens. With transformers and peft installed it times them
(--implementation peft); with torch alone, the Llama written out below (--implementation torch). Prints one JSON line.
"""

import argparse
import json
import math
import resource
import time

import torch
from torch import nn
from torch.nn import functional as F

# hidden, intermediate, layers, heads, key-value heads, head dimension, vocabulary, tied embeddings, rope base
WIDTHS = {
    "tiny": (64, 128, 2, 4, 2, 16, 512, True, 10000.0),
    "smollm2-135m": (576, 1536, 30, 9, 3, 64, 49152, True, 100000.0),
    "tinyllama-1.1b": (2048, 5632, 22, 32, 4, 64, 32000, False, 10000.0),
    "llama-2-7b": (4096, 11008, 32, 32, 32, 128, 32000, False, 10000.0),
}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def frozen(rows, columns, device, dtype):
    weight = torch.empty(rows, columns, device=device, dtype=dtype).normal_(std=0.02)
    return nn.Parameter(weight, requires_grad=False)


class LoraLinear(nn.Module):
    """y = x W^T + (alpha / r) x A^T B^T, with alpha = 2 r; W frozen, A and B in f32."""

    def __init__(self, inputs, outputs, rank, device, dtype):
        super().__init__()
        self.weight = frozen(outputs, inputs, device, dtype)
        self.a = nn.Parameter(torch.empty(rank, inputs, device=device).uniform_(-1, 1) / math.sqrt(inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank, device=device))

    def forward(self, x):
        update = F.linear(F.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))
        return F.linear(x, self.weight) + 2.0 * update


class RmsNorm(nn.Module):
    def __init__(self, width, device, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=dtype), requires_grad=False)

    def forward(self, x):
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


def rotate(x, cosine, sine):
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


class Layer(nn.Module):
    def __init__(self, shape, rank, prefix, device, dtype):
        super().__init__()
        hidden, intermediate, _, heads, kv_heads, head_dim = shape[:6]
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        make = lambda i, o: LoraLinear(i, o, rank, device, dtype)
        self.q, self.o = make(hidden, heads * head_dim), make(heads * head_dim, hidden)
        self.k, self.v = make(hidden, kv_heads * head_dim), make(hidden, kv_heads * head_dim)
        self.gate, self.up, self.down = make(hidden, intermediate), make(hidden, intermediate), make(intermediate, hidden)
        self.norm_attention, self.norm_mlp = RmsNorm(hidden, device, dtype), RmsNorm(hidden, device, dtype)
        self.prefix = nn.Parameter(0.02 * torch.randn(2, 1, kv_heads, prefix, head_dim, device=device))

    def forward(self, x, cosine, sine, mask):
        batch, length, _ = x.shape
        split = lambda t, n: t.view(batch, length, n, self.head_dim).transpose(1, 2)
        h = self.norm_attention(x)
        q, k, v = split(self.q(h), self.heads), split(self.k(h), self.kv_heads), split(self.v(h), self.kv_heads)
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        rows = self.prefix.to(x.dtype).expand(-1, batch, -1, -1, -1)
        k, v = torch.cat((rows[0], k), dim=2), torch.cat((rows[1], v), dim=2)
        repeat = self.heads // self.kv_heads
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.o(attended.transpose(1, 2).reshape(batch, length, -1))
        h = self.norm_mlp(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    def __init__(self, shape, rank, prefix, device, dtype):
        super().__init__()
        hidden, _, layers, _, _, head_dim, vocabulary, tied, base = shape
        self.head_dim, self.base, self.prefix = head_dim, base, prefix
        self.embedding = frozen(vocabulary, hidden, device, dtype)
        self.head = self.embedding if tied else frozen(vocabulary, hidden, device, dtype)
        self.layers = nn.ModuleList(Layer(shape, rank, prefix, device, dtype) for _ in range(layers))
        self.norm = RmsNorm(hidden, device, dtype)

    def forward(self, ids):
        length, dtype = ids.shape[1], self.embedding.dtype
        frequency = self.base ** (-torch.arange(0, self.head_dim, 2, device=ids.device).float() / self.head_dim)
        angle = torch.outer(torch.arange(length, device=ids.device).float(), frequency).repeat(1, 2)
        columns = torch.arange(self.prefix + length, device=ids.device)
        mask = columns[None, :] <= self.prefix + torch.arange(length, device=ids.device)[:, None]
        x = F.embedding(ids, self.embedding)
        for layer in self.layers:
            x = layer(x, angle.cos().to(dtype), angle.sin().to(dtype), mask)
        return F.linear(self.norm(x), self.head)


class PeftLlama(nn.Module):
    """transformers' Llama under peft's LoRA; the prefix goes in as past keys and values."""

    def __init__(self, shape, rank, prefix, device, dtype):
        super().__init__()
        from peft import LoraConfig, get_peft_model
        from transformers import LlamaConfig, LlamaForCausalLM

        hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, tied, base = shape
        config = LlamaConfig(
            hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=kv_heads, head_dim=head_dim, vocab_size=vocabulary, tie_word_embeddings=tied,
            max_position_embeddings=4096, rope_theta=base, rms_norm_eps=1e-5, attn_implementation="sdpa",
        )
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        with torch.device(device):
            model = LlamaForCausalLM(config)
        torch.set_default_dtype(default)
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
        self.model = get_peft_model(model, lora)
        self.dtype = dtype
        self.prefix = nn.Parameter(0.02 * torch.randn(layers, 2, 1, kv_heads, prefix, head_dim, device=device))

    def forward(self, ids):
        from transformers import DynamicCache

        batch, length = ids.shape
        cache = DynamicCache()
        for layer, rows in enumerate(self.prefix.to(self.dtype)):
            cache.update(rows[0].expand(batch, -1, -1, -1), rows[1].expand(batch, -1, -1, -1), layer)
        mask = torch.ones(batch, self.prefix.shape[4] + length, device=ids.device, dtype=torch.long)
        return self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True).logits


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", choices=WIDTHS, required=True)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="bf16")
    parser.add_argument("--implementation", choices=["peft", "torch"], default="torch")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sequence", type=int, default=64)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--prefix", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()

    torch.manual_seed(17)
    device = torch.device(arguments.device)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    shape = WIDTHS[arguments.width]
    build = {"peft": PeftLlama, "torch": Llama}[arguments.implementation]
    model = build(shape, arguments.rank, arguments.prefix, device, dtype)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.0)
    ids = torch.randint(shape[6], (arguments.batch, arguments.sequence), device=device)
    finish = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    losses, start = [], 0.0
    for step in range(arguments.warmup + arguments.steps):
        if step == arguments.warmup:
            finish()
            start = time.perf_counter()
        logits = model(ids)[:, :-1].float()
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    finish()
    seconds = (time.perf_counter() - start) / arguments.steps

    print(json.dumps({
        "program": f"pytorch {torch.__version__} ({arguments.implementation})",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "width": arguments.width, "dtype": arguments.dtype, "batch": arguments.batch, "sequence": arguments.sequence,
        "rank": arguments.rank, "prefix": arguments.prefix, "steps": arguments.steps,
        "trainable_parameters": sum(parameter.numel() for parameter in trained),
        "loss_first": losses[0].item(), "loss_last": losses[-1].item(),
        "seconds_per_step": seconds, "tokens_per_second": arguments.batch * arguments.sequence / seconds,
        "peak_device_mib": torch.cuda.max_memory_reserved(device) // 2**20 if device.type == "cuda" else None,
        "peak_host_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }))


if __name__ == "__main__":
    main()
