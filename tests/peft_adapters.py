"""Random base models and random adapters of every kind that `pemlc import` reads, made by PEFT, with PEFT's own answers.

    python3 tests/peft_adapters.py fixtures/peft          # rewrites what the Rust tests read
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy
import peft
import torch
import transformers
from peft import (LoraConfig, MultitaskPromptTuningConfig, PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig,
                  get_peft_model)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

transformers.utils.logging.disable_progress_bar()
SHAPE = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256, bos_token_id=0, eos_token_id=1, pad_token_id=0)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SHAPE, tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters=LLAMA3)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, tie_word_embeddings=False, rms_norm_eps=1e-6)),
}
CAUSAL = dict(task_type="CAUSAL_LM")
PROMPT = dict(**CAUSAL, num_virtual_tokens=6)


def kinds(last_layer):
    """Folders by name: a configuration each. Tasks by name: the folders of each, and which task of a multitask prompt."""
    attention, feed_forward = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
    folders = {
        "list": LoraConfig(**CAUSAL, r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
        "patterns": LoraConfig(**CAUSAL, r=4, lora_alpha=6, target_modules="all-linear", fan_in_fan_out=False,
                               rank_pattern={"down_proj": 2, r"layers\.0\.self_attn\.q_proj": 7},
                               alpha_pattern={"up_proj": 11, r"^model\.layers\.1\..*v_proj": 3}),
        "rslora": LoraConfig(**CAUSAL, r=9, lora_alpha=5, use_rslora=True, target_modules=attention, rank_pattern={"k_proj": 3}),
        "regex": LoraConfig(**CAUSAL, r=3, lora_alpha=3, target_modules=r"^(?!.*\.0\.).*\.(mlp|self_attn)\.(gate|o)_proj$"),
        "layers": LoraConfig(**CAUSAL, r=2, lora_alpha=4, target_modules=attention, layers_to_transform=[last_layer],
                             exclude_modules=["o_proj"], lora_dropout=0.1),
        "dora": LoraConfig(**CAUSAL, r=4, lora_alpha=8, use_dora=True, target_modules=attention + feed_forward),
        "dora_rs": LoraConfig(**CAUSAL, r=2, lora_alpha=2, use_dora=True, use_rslora=True, target_modules=["q_proj", "k_proj", "down_proj"],
                              rank_pattern={"k_proj": 5}, alpha_pattern={"q_proj": 4}, layers_to_transform=0),
        "hub": LoraConfig(**CAUSAL, r=2, lora_alpha=2, use_dora=True, target_modules=["v_proj", "up_proj"]),
        "prefix": PrefixTuningConfig(**PROMPT),
        "prefix_mlp": PrefixTuningConfig(**CAUSAL, num_virtual_tokens=11, prefix_projection=True, encoder_hidden_size=16),
        "prefix_short": PrefixTuningConfig(**CAUSAL, num_virtual_tokens=1),
        "prompt": PromptTuningConfig(**PROMPT),
        "p_tuning_mlp": PromptEncoderConfig(**CAUSAL, num_virtual_tokens=4, encoder_hidden_size=16, encoder_reparameterization_type="MLP"),
        "p_tuning_lstm": PromptEncoderConfig(**CAUSAL, num_virtual_tokens=3, encoder_hidden_size=16, encoder_reparameterization_type="LSTM"),
        "mpt": MultitaskPromptTuningConfig(**CAUSAL, num_virtual_tokens=5, num_tasks=3, num_ranks=2),
    }
    tasks = {name: ([name], None) for name in folders if name != "mpt"}
    tasks |= {
        "mpt_0": (["mpt"], 0),
        "mpt_2": (["mpt"], 2),
        "lora_and_prefix": (["patterns", "prefix"], None),
        "dora_and_prefix": (["dora", "prefix_mlp"], None),
        "dora_and_prompt": (["dora", "prompt"], None),
        "lora_and_p_tuning": (["rslora", "p_tuning_mlp"], None),
    }
    return folders, tasks


def randomise(model, seed, width=0.15):
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Norms near one; the rest wide enough that biases and rotary positions matter.
            parameter.normal_(1.0 if "norm" in name else 0.0, width)


def make_base(folder, name):
    family, config = MODELS[name]
    model = family(config)
    randomise(model, 17)
    model.save_pretrained(folder)
    write_tokenizer(folder, config.vocab_size)


def write_tokenizer(folder, vocabulary):
    """Words by what they hash to: any text has tokens, all of them in the vocabulary."""
    words = "the a to and of in it was is she on more than than all one which at air there year table red blue".split()
    table = {"<unk>": 0}
    for word in words:
        table.setdefault(word, len(table))
    assert len(table) < vocabulary
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                 "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
                 "model": {"type": "WordLevel", "vocab": table, "unk_token": "<unk>"}}
    (Path(folder) / "tokenizer.json").write_text(json.dumps(tokenizer))


def load(base, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation="eager").eval()


def make_adapter(base, config, folder, seed, strength=1.0):
    """An adapter with random numbers in all that PEFT trains, as PEFT saves it."""
    model = get_peft_model(load(base), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if "magnitude" in name:
                parameter.mul_(1 + 0.4 * strength * (torch.rand_like(parameter) - 0.5))
            elif "lora_" in name:
                # About as large a change as the weight itself, whatever the widths.
                parameter.normal_(0.0, 0.5 * strength / parameter.shape[1] ** 0.5)
            elif "prefix_task" in name:
                parameter.normal_(0.8, 0.3)
            else:
                # On a trained model rows of large numbers make answers that f32 itself does not hold to 1e-4.
                parameter.normal_(0.0, strength * (0.5 if "embedding" in name else 0.3))
    model.save_pretrained(folder)
    if folder.name == "hub":
        # As some publish them: the adapter's name in every tensor's, half precision.
        path = folder / "adapter_model.safetensors"
        renamed = {}
        for name, tensor in load_file(path).items():
            module, _, last = name.rpartition(".")
            name = f"{name}.default.weight" if last == "lora_magnitude_vector" else f"{module}.default.{last}"
            renamed[name] = tensor.half()
        save_file(renamed, path)


def peft_logits(base, folders, index, rows, dtype=torch.float32):
    """Logits of each row by PEFT, one row at a time: deltas first, then what stands in front of the tokens."""
    model = load(base, dtype)
    for folder in folders:
        if folder.name == "hub":
            # PEFT reads names without the adapter's.
            plain = Path(tempfile.mkdtemp()) / "hub"
            shutil.copytree(folder, plain)
            tensors = {name.replace(".default.weight", "" if "magnitude" in name else ".weight"): tensor.float()
                       for name, tensor in load_file(plain / "adapter_model.safetensors").items()}
            save_file(tensors, plain / "adapter_model.safetensors")
            folder = plain
        outer = PeftModel.from_pretrained(model, folder).eval().to(dtype)
        model = outer.get_base_model() if folder != folders[-1] and len(folders) > 1 else outer
    more = {} if index is None else {"task_ids": torch.tensor([index])}
    answers = []
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row])
            logits = outer(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits[0]
            # A soft prompt has logits of its own in front.
            answers.append(logits[-len(row):].numpy())
    return answers


def versions():
    named = {"peft": peft, "torch": torch, "transformers": transformers, "numpy": numpy}
    return {name: module.__version__.split("+")[0] for name, module in named.items()}


def write_fixtures(target):
    """Adapters on the tiny models of fixtures/golden, with PEFT's logits: what the Rust tests read."""
    for family in ("llama3-tiny", "qwen2-tiny"):
        base = target.parent / "golden" / family
        folders, tasks = kinds(1)
        wanted = {"list": ["list"], "patterns": ["small"], "dora": ["dora_rs"], "prefix": ["prefix"], "prompt": ["prompt"], "mpt": ["mpt"],
                  "dora_and_prefix": ["dora_rs", "prefix_mlp"], "lora_and_prompt": ["list", "p_tuning_mlp"]}
        folders["list"].r, folders["list"].target_modules = 2, {"q_proj", "v_proj"}
        folders["small"] = LoraConfig(**CAUSAL, r=1, lora_alpha=3, use_rslora=True, target_modules=["o_proj", "up_proj", "k_proj"],
                                      rank_pattern={r"layers\.0\.self_attn\.o_proj": 3}, alpha_pattern={"k_proj": 2})
        folders["prefix_mlp"].num_virtual_tokens, folders["prefix"].num_virtual_tokens = 4, 3
        folders["prompt"].num_virtual_tokens = 3
        shutil.rmtree(target / family, ignore_errors=True)
        cases = []
        for task, (name, own) in enumerate(wanted.items()):
            for folder in own:
                if not (target / family / folder).exists():
                    make_adapter(base, folders[folder], target / family / folder, 100 + len(cases))
                    (target / family / folder / "README.md").unlink(missing_ok=True)
                    strip(target / family / folder)
            index = 2 if own == ["mpt"] else None
            row = numpy.random.default_rng(task).integers(0, 96, 4 + task).tolist()
            logits = peft_logits(base, [target / family / folder for folder in own], index, [row])[0][[0, -1]]
            logits = [[round(float(logit), 6) for logit in position] for position in logits]
            cases.append({"task": name, "folders": own, "index": index, "tokens": row, "first_and_last_logits": logits})
        text = json.dumps({"versions": versions(), "cases": cases}).replace('{"task"', '\n{"task"')
        (target / family / "expected.json").write_text(text + "\n")


def strip(folder):
    """Leaves out what differs from one machine or run to the next."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "tiny"
    if isinstance(config.get("target_modules"), list):
        # PEFT keeps a set of them.
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    write_fixtures(Path(sys.argv[1]))
