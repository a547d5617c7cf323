"""A base model in 16 bits whose weights stand on no grid: what int8 and int4 cost when the base was not quantised before.

    python3 benches/base_16_bit.py MODEL.gguf RUN FOLDER

MODEL.gguf is a llama model, RUN a run of it (for its tokenizer), FOLDER what is written: a Hugging Face folder of numbers that bf16 holds. Every weight of a product is moved
by a random number of at most half a step of the blocks of 32 that it was quantised in, so that it may stand anywhere. This is not the model
as it was before it was quantised, but loses what such a model loses. Needs numpy, gguf and safetensors.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file

NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}


def hugging_face_name(name):
    if name.startswith("blk."):
        _, layer, part, kind = name.split(".")
        return f"model.layers.{layer}.{NAMES[part]}.{kind}"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}[name]


def halves_together(weight, heads):
    """Rows of queries and keys, from pairs beside each other (GGUF) to halves of a head."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def main():
    model, run, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    reader, random = GGUFReader(model), np.random.default_rng(0)

    def field(name):
        return reader.fields[f"llama.{name}"].contents()

    heads, groups = field("attention.head_count"), field("attention.head_count_kv")
    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if values.ndim == 2:
            blocks = values.reshape(-1, 32)
            step = (blocks.max(1) - blocks.min(1)) / 15
            values = (blocks + random.uniform(-0.5, 0.5, blocks.shape) * step[:, None]).reshape(values.shape)
        if "attn_q." in tensor.name or "attn_k." in tensor.name:
            values = halves_together(values, heads if "attn_q." in tensor.name else groups)
        # Rounded to bf16 and written as the f32 numbers that those are, which safetensors' numpy side can.
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        tensors[hugging_face_name(tensor.name)] = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    hidden, vocabulary = field("embedding_length"), tensors["model.embed_tokens.weight"].shape[0]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "float32", "hidden_size": hidden,
        "intermediate_size": field("feed_forward_length"), "num_hidden_layers": field("block_count"), "num_attention_heads": heads,
        "num_key_value_heads": groups, "head_dim": hidden // heads, "vocab_size": vocabulary, "max_position_embeddings": field("context_length"),
        "rms_norm_eps": float(field("attention.layer_norm_rms_epsilon")), "rope_theta": float(field("rope.freq_base")),
        "tie_word_embeddings": "lm_head.weight" not in tensors, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(run / "tokenizer/tokenizer.json", folder)


if __name__ == "__main__":
    main()
