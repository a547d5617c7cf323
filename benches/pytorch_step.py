"""One training step under PyTorch + PEFT: LoRA (rank 8, all seven projections) and 8 prefix rows on every layer's keys and values.

    python3 benches/pytorch_step.py MODEL [--batch 4] [--sequence 64] [--steps 6] [--threads 2]

Prints one JSON line: tokens/s of the median step after the first, and peak resident memory. Needs torch, transformers, peft (and gguf for a .gguf file).
"""

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    for name, default in (("batch", 4), ("sequence", 64), ("rank", 8), ("prefix", 8), ("steps", 6), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(17)
    path = arguments.model
    folder, extra = (path.parent, {"gguf_file": path.name}) if path.suffix == ".gguf" else (path, {})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **extra)
    config = model.config
    targets = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    model = get_peft_model(model, LoraConfig(r=arguments.rank, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (config.num_hidden_layers, 2, 1, config.num_key_value_heads, arguments.prefix, head_dim)
    prefix = torch.nn.Parameter(torch.randn(shape) * 0.02)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad] + [prefix]
    optimizer = torch.optim.AdamW(trained, lr=5e-4)
    ids = torch.randint(0, config.vocab_size, (arguments.batch, arguments.sequence))
    mask = torch.ones(arguments.batch, arguments.sequence + arguments.prefix, dtype=torch.long)
    times = []
    for _ in range(arguments.steps):
        start = time.perf_counter()
        cache = DynamicCache()
        for layer in range(config.num_hidden_layers):
            key, value = (prefix[layer, half].expand(arguments.batch, -1, -1, -1) for half in (0, 1))
            cache.update(key, value, layer)
        positions = torch.arange(arguments.sequence)[None].expand(arguments.batch, -1)
        loss = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    step = statistics.median(times[1:])
    print(json.dumps({
        "what": "pytorch+peft", "torch": torch.__version__.split("+")[0], "seconds_per_step": round(step, 4),
        "tokens_per_second": round(arguments.batch * arguments.sequence / step, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), "last_loss": round(loss.item(), 4),
    }))


if __name__ == "__main__":
    main()
