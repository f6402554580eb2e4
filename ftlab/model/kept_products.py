"""What ``train.gradient_checkpointing=selective`` keeps of a decoder layer, beside its input. Imports no torch.

Everything is computed again in the backward but what costs most for the bytes that it takes. Of a product of T x k with
k x n numbers that is 2 k operations for each number that comes out of it: the same for all that read hidden states, and
more for the one that leads back from the feed-forward's inner width. Of the attention it grows with the length of a
sample. So these are kept:

- what the attention gives, with the normalizers that its backward reads;
- queries, keys and values as their products give them, and what the product after the attention gives;
- under adapters what leads back from the feed-forward. (Where that weight trains, nothing needs what comes out of it.)

Gate and up are computed again: what they give is as cheap a byte as any, and two thirds of what a layer keeps. Neither
are products with adapters kept, nor anything of a mixture's experts. By counting, every second product, torchtitan
(``torchtitan/distributed/activation_checkpoint.py``) keeps queries, values and gate; with adapters among the products
it would be another selection for each set of targets.
"""

from __future__ import annotations

from ftlab.model import prequantized
from ftlab.schema import Run

# Attention kernels, as torch calls them.
ATTENTION = frozenset({
    "aten::_scaled_dot_product_flash_attention", "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention", "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_fused_attention_overrideable", "torch_attn::_varlen_attn", "flex_attention",
    "flash_attn::_flash_attn_varlen_forward", "flash_attn::_flash_attn_forward",
})  # fmt: skip


def kept_products(run: Run) -> frozenset[tuple[int, int]]:
    """The products that are kept, as (inputs, outputs) of their weights. None of int8, GPTQ and AWQ weights, which are
    multiplied by kernels of their own."""
    shape = run.model.architecture
    hidden, queries, keys = shape.hidden_size, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    packed = prequantized.packing(run.model) if run.quant.name == "none" else None
    if run.quant.name == "int8" or (packed is not None and packed.kind != "bitsandbytes"):
        return frozenset()
    inner = shape.intermediate_size
    found = {(hidden, queries), (hidden, keys), (queries, hidden), (hidden, queries + 2 * keys)}  # the last: all in one
    if run.method.name == "lora" and shape.experts == 1:
        found.add((inner, hidden))
    return frozenset(found - {(hidden, inner), (hidden, 2 * inner)})
