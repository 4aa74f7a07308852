"""What llama.cpp's file format and transformers call the weights of a Llama."""

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
"""Name in the file -> name in transformers, without ``.weight``."""
LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{short}": f"self_attn.{short}_proj" for short in "qkv"},
    "attn_output": "self_attn.o_proj",
    **{f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
"""The same within a layer."""
