"""Loads a run's adapters with Hugging Face PEFT and compares logits with the trainer's probes.

    python3 tests/peft_compare.py RUN BASE [--tolerance 1e-3]

RUN is a run directory, BASE the base model (a Hugging Face folder or a .gguf file). Needs torch, transformers, peft, safetensors (and
gguf for a .gguf file). Shared and private LoRA are added up; a prefix is compared when it was trained without log-gates, because PEFT has none.
Exits with 1 above the tolerance, and with 2 when there was nothing that PEFT could hold.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def base_model(path):
    path = Path(path)
    folder, extra = (path.parent, {"gguf_file": path.name}) if path.suffix == ".gguf" else (path, {})
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **extra).eval()


def with_lora(base, folders):
    """The base model with the deltas of all folders active together."""
    if not folders:
        return base
    model = PeftModel.from_pretrained(base, folders[0], adapter_name="a0")
    names = ["a0"]
    for index, folder in enumerate(folders[1:], 1):
        names.append(f"a{index}")
        model.load_adapter(folder, adapter_name=names[-1])
    model.base_model.set_adapter(names)
    return model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("base")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    arguments = parser.parse_args()
    run = json.loads((arguments.run / "run.json").read_text())
    probes = load_file(arguments.run / "probes.safetensors")
    failed, compared = False, 0
    for index, task in enumerate(run["tasks"]):
        folders = [arguments.run / "adapters" / "shared", arguments.run / "adapters" / task["name"] / "lora"]
        model = with_lora(base_model(arguments.base), [str(folder) for folder in folders if folder.is_dir()])
        prefix = arguments.run / "adapters" / task["name"] / "prefix"
        if prefix.is_dir():
            if isinstance(model, PeftModel):
                model = model.merge_and_unload()
            model = PeftModel.from_pretrained(model, str(prefix)).eval()
        elif run["prefix"] is not None:
            print(f"{task['name']}: its prefix has log-gates, which PEFT cannot hold: skipped")
            continue
        worst = 0.0
        rows = (probes["task_id"] == index).nonzero().flatten().tolist()
        if not rows:
            sys.exit(f"{task['name']}: probes.safetensors has no row of this task")
        for probe in rows:
            length = int(probes["attention_mask"][probe].sum())
            with torch.no_grad():
                logits = model(input_ids=probes["input_ids"][probe : probe + 1, :length]).logits[0]
            positions = probes["positions"][probe]
            worst = max(worst, (logits[positions] - probes["logits"][probe]).abs().max().item())
        print(f"{task['name']}: max |logit difference| {worst:.2e}")
        failed |= not worst <= arguments.tolerance
        compared += 1
    if not compared:
        print("nothing compared: train with `--set prefix.log_gate=false` for a prefix that PEFT can load")
        sys.exit(2)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
