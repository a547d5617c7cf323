"""Adapters of every kind that `pemlc import` reads, made by PEFT itself, against PEFT's own logits.

Makes random adapters on a random Llama and a random Qwen2 model (or on MODEL), runs `pemlc import` and `pemlc export`, runs the ONNX graph
under onnxruntime for every task in one mixed, padded batch, once whole and once in two pieces through the cache, and compares each row with
what PEFT answers to it alone. Fails when any logit differs by more than 1e-4 (in proportion where logits exceed 10, as `pemlc check` has it), or
three times what PEFT in f32 differs from PEFT in f64, the column `PEFT f64`.

Needs numpy, onnxruntime, peft, tokenizers, torch and transformers. Runs by hand, outside CI.

    python3 tests/peft_import.py target/debug/pemlc [--keep DIR] [--model MODEL]
    python3 tests/peft_import.py --fixtures fixtures/peft          # rewrites what the Rust tests read
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import onnxruntime
import peft
import torch
import transformers
from peft import (LoraConfig, MultitaskPromptTuningConfig, PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig,
                  get_peft_model)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

transformers.utils.logging.disable_progress_bar()
LIMIT = 1e-4
SHAPE = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256, bos_token_id=0, eos_token_id=1, pad_token_id=0)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SHAPE, tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters=LLAMA3)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, tie_word_embeddings=False, rms_norm_eps=1e-6)),
}
TEXT = ("The train to the coast leaves at half past seven, and the tickets are sold at the station. Which of the two boxes is heavier, the "
        "red one or the blue one? In 1998 the company had 42 employees; ten years later there were more than three hundred of them.")
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


def command(*words):
    print("$", *words, flush=True)
    result = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    sys.stdout.write(result.stdout)
    if result.returncode:
        sys.exit(f"exit code {result.returncode}\n{result.stderr}")


def onnx_logits(artifact, rows, task_ids, cut):
    """Logits of a right-padded batch; with `cut`, the first tokens first and the rest through the cache."""
    config = json.loads((artifact / "pemlc.json").read_text())["config"]
    session = onnxruntime.InferenceSession(str(artifact / "model.onnx"), providers=["CPUExecutionProvider"])
    length = max(map(len, rows))
    ids = numpy.array([row + [0] * (length - len(row)) for row in rows], numpy.int64)
    mask = numpy.array([[1] * len(row) + [0] * (length - len(row)) for row in rows], numpy.int64)
    positions = numpy.maximum(mask.cumsum(1) - 1, 0)
    shape = (len(rows), config["num_key_value_heads"], 0, config["head_dim"])
    cache = [numpy.zeros(shape, numpy.float32)] * (2 * config["num_hidden_layers"])
    names = [f"past_key_values.{layer}.{part}" for layer in range(config["num_hidden_layers"]) for part in ("key", "value")]
    pieces = []
    for start, end in ([(0, length)] if not cut else [(0, cut), (cut, length)]):
        inputs = {"input_ids": ids[:, start:end], "attention_mask": mask[:, :end], "position_ids": positions[:, start:end],
                  "task_id": numpy.array(task_ids, numpy.int64), **dict(zip(names, cache))}
        logits, *cache = session.run(None, inputs)
        pieces.append(logits)
    logits = numpy.concatenate(pieces, 1)
    return [logits[index, :len(row)] for index, row in enumerate(rows)]


def texts(base, tasks):
    """Two rows of tokens for each task: of a text for a trained model, else any."""
    config = json.loads((base / "config.json").read_text())
    generator = numpy.random.default_rng(5)
    for task in range(tasks):
        sizes = (5 + task % 7, 17)
        if (base / "tokenizer_config.json").exists():
            tokenizer = transformers.AutoTokenizer.from_pretrained(base)
            yield [tokenizer(TEXT[7 * task:]).input_ids[:size] for size in sizes]
        else:
            yield [generator.integers(0, config["vocab_size"], size).tolist() for size in sizes]


def compare(binary, base, root, adapters, tasks):
    """Imports, exports, runs. Prints a line a task; returns whether all is well."""
    words = []
    for name, (folders, index) in tasks.items():
        for folder in folders:
            words += ["--task", f"{name}={adapters / folder}{'' if index is None else f'#{index}'}"]
    command(binary, "import", "--base", base, *words, "--force", root / "run")
    # Random rows in a trained model make answers that tract's exponentials do not hold to 1e-4.
    command(binary, "export", root / "run", root / "artifact", "--force", *(["--runtime", "ort-cpu"] if base.parent != root else []))
    rows, task_ids, expected, exact, owners = [], [], [], [], []
    for task, ((name, (folders, index)), own) in enumerate(zip(tasks.items(), texts(base, len(tasks)))):
        expected += peft_logits(base, [adapters / folder for folder in folders], index, own)
        exact += peft_logits(base, [adapters / folder for folder in folders], index, own, torch.float64)
        rows += own
        task_ids += [task] * len(own)
        owners += [name] * len(own)
    base_logits = []
    model = load(base)
    with torch.no_grad():
        base_logits = [model(torch.tensor([row])).logits[0].numpy() for row in rows]
    found, cached = onnx_logits(artifact := root / "artifact", rows, task_ids, 0), onnx_logits(artifact, rows, task_ids, 4)
    validated = json.loads((artifact / "pemlc.json").read_text())["validated"]
    print(f"\n{'task':20} {'largest':>9} {'cached':>9} {'PEFT f64':>9} {'logits to':>9} {'from base':>9}")
    worst, close = 0.0, True
    for name in tasks:
        own = [place for place, owner in enumerate(owners) if owner == name]
        whole = max(float(abs(found[place] - expected[place]).max()) for place in own)
        pieces = max(float(abs(cached[place] - expected[place]).max()) for place in own)
        rounding = max(float(abs(exact[place] - expected[place]).max()) for place in own)
        size = max(float(abs(expected[place]).max()) for place in own)
        change = min(float(abs(expected[place] - base_logits[place]).max()) for place in own)
        assert change > 0.01, f"{name} does nothing: it would pass whatever is imported"
        print(f"{name:20} {whole:9.1e} {pieces:9.1e} {rounding:9.1e} {size:9.1f} {change:9.2f}")
        # No f32 model can be held to PEFT's numbers more closely than PEFT's own f32 holds to them.
        allowed = max(LIMIT * max(1.0, size / 10), 3 * rounding)
        close = close and max(whole, pieces) <= allowed
        worst = max(worst, whole, pieces)
    print(f"largest difference {worst:.1e}, {'all' if close else 'NOT ALL'} close enough, artifact validated: {validated}\n", flush=True)
    return close and validated


def versions():
    named = {"peft": peft, "torch": torch, "transformers": transformers, "onnxruntime": onnxruntime, "numpy": numpy}
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
    """Names no path of the machine that made it."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "tiny"
    path.write_text(json.dumps(config, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", nargs="?", type=Path)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder to use in place of random models")
    parser.add_argument("--keep", type=Path, help="a folder for what is made, which is kept")
    parser.add_argument("--fixtures", type=Path)
    arguments = parser.parse_args()
    print(" ".join(f"{name} {version}" for name, version in versions().items()))
    if arguments.fixtures:
        return write_fixtures(arguments.fixtures)
    good = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in [arguments.model.name] if arguments.model else MODELS:
            root = (arguments.keep or Path(scratch)) / name
            base, adapters = arguments.model or root / "base", root / "adapters"
            if not arguments.model:
                make_base(base, name)
            layers = json.loads((base / "config.json").read_text())["num_hidden_layers"]
            folders, tasks = kinds(layers - 1)
            for seed, (folder, config) in enumerate(folders.items()):
                make_adapter(base, config, adapters / folder, seed, 0.25 if arguments.model else 1.0)
            print(f"# {name}: {len(tasks)} tasks of {len(folders)} folders")
            good.append(compare(arguments.binary, base, root, adapters, tasks))
    if not all(good):
        sys.exit("logits are not PEFT's, or a check failed")


if __name__ == "__main__":
    main()
