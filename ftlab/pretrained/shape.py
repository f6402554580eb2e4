"""How many parameters a model has, from its shape alone.

Pure integer arithmetic over the ``architecture`` block of ``conf/model/*.yaml``: no weights, no network, no torch, so
that preflight can say whether a run fits before anything heavy is imported. All results are numbers of parameters
(elements); multiply by the bytes of a dtype to get memory. A matrix shared by the embedding and the output head is
counted once, and buffers (rotary frequencies, masks) are not counted: they are not parameters.

The terms, with the shape suffixes V vocabulary, H hidden size, Q = heads * head_dim, K = kv_heads * head_dim,
I intermediate size, E experts, D head_dim, L layers:

==============  ======================================================================================
embedding       V*H, plus P*H for P learned positions
attention       q: H*Q, k and v: H*K each, output: Q*H; biases Q + 2*K and H; norms of q and k: 2*D, or Q + K
                where they are over all heads at once; a sink for each head
feed-forward    E * (up and down: 2*H*I, gate: H*I); biases I per up or gate and H per down; router H*E,
                and E for its bias
norm            H for a scale (RMSNorm), 2*H with a bias (LayerNorm)
layer           attention + feed-forward + norms_per_layer * norm
head            V*H unless tied to the embedding, plus V for a bias
model           embedding + L * layer + one final norm + head
==============  ======================================================================================

This is the decoder of Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762) with grouped-query attention (Ainslie et
al. 2023, https://arxiv.org/abs/2305.13245), gated feed-forward (Shazeer 2020, https://arxiv.org/abs/2002.05202) and
mixture of experts (Jiang et al. 2024, https://arxiv.org/abs/2401.04088). A layout in which a checkpoint fuses matrices
(``qkv_proj``, ``gate_up_proj``, ``W_pack``) has the same count. ``tests/pretrained/test_shape.py`` compares the
formula with published counts and with the classes of transformers.
"""

from __future__ import annotations

from typing import Literal, Protocol


class Shape(Protocol):
    """What the arithmetic needs to know of a model: the keys of ``model.architecture``, read only.

    ``intermediate_size`` is that of one expert where there are several. ``experts`` is 1 for a dense model, which has
    no router. ``position_embeddings`` is the number of learned positions, 0 with rotary ones.
    """

    @property
    def layers(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def position_embeddings(self) -> int: ...
    @property
    def tied_embeddings(self) -> bool: ...
    @property
    def gated_mlp(self) -> bool: ...
    @property
    def qkv_bias(self) -> bool: ...
    @property
    def output_bias(self) -> bool: ...
    @property
    def mlp_bias(self) -> bool: ...
    @property
    def lm_head_bias(self) -> bool: ...
    @property
    def norms_per_layer(self) -> int: ...
    @property
    def norm_bias(self) -> bool: ...
    @property
    def qk_norm(self) -> bool | Literal["whole"]: ...
    @property
    def attention_sinks(self) -> bool: ...
    @property
    def experts(self) -> int: ...
    @property
    def experts_per_token(self) -> int: ...
    @property
    def router_bias(self) -> bool: ...


def parameter_count(shape: Shape) -> int:
    """Parameters of the whole model: embedding + layers + final norm + output head, shared matrices once."""
    return (
        embedding_parameters(shape)
        + shape.layers * layer_parameters(shape)
        + norm_parameters(shape)
        + lm_head_parameters(shape)
    )


def active_parameter_count(shape: Shape) -> int:
    """Parameters that one token passes through: all of a dense model, of a mixture only the experts it is routed to.

    The embedding counts in full, as in the "active" figures that model cards give.
    """
    unused = shape.experts - shape.experts_per_token
    return parameter_count(shape) - shape.layers * unused * expert_parameters(shape)


def embedding_parameters(shape: Shape) -> int:
    """Parameters of the token embedding and of learned positions, if any: (V + P) * H."""
    return (shape.vocab_size + shape.position_embeddings) * shape.hidden_size


def lm_head_parameters(shape: Shape) -> int:
    """Parameters that the output head adds: V * H, or none when it is the embedding, plus V for a bias."""
    weight = 0 if shape.tied_embeddings else shape.vocab_size * shape.hidden_size
    return weight + (shape.vocab_size if shape.lm_head_bias else 0)


def layer_parameters(shape: Shape) -> int:
    """Parameters of one decoder layer: attention, feed-forward (all experts) and norms."""
    return attention_parameters(shape) + feed_forward_parameters(shape) + shape.norms_per_layer * norm_parameters(shape)


def attention_parameters(shape: Shape) -> int:
    """Parameters of one attention block: q, k, v and output projections, their biases, and the norms of q and k."""
    query = shape.heads * shape.head_dim
    key_value = 2 * shape.kv_heads * shape.head_dim
    weights = shape.hidden_size * (query + key_value) + query * shape.hidden_size
    biases = (query + key_value if shape.qkv_bias else 0) + (shape.hidden_size if shape.output_bias else 0)
    # One scale per head dimension for q and one for k, shared by the heads; or one for each of their numbers.
    norms = query + key_value // 2 if shape.qk_norm == "whole" else 2 * shape.head_dim if shape.qk_norm else 0
    return weights + biases + norms + (shape.heads if shape.attention_sinks else 0)


def feed_forward_parameters(shape: Shape) -> int:
    """Parameters of one layer's feed-forward: every expert, and the router where there is more than one."""
    router = (shape.hidden_size + shape.router_bias) * shape.experts if shape.experts > 1 else 0
    return shape.experts * expert_parameters(shape) + router


def expert_parameters(shape: Shape) -> int:
    """Parameters of one feed-forward network: up, down and, if gated, gate."""
    inward = 2 if shape.gated_mlp else 1
    weights = (inward + 1) * shape.hidden_size * shape.intermediate_size
    return weights + (inward * shape.intermediate_size + shape.hidden_size if shape.mlp_bias else 0)


def norm_parameters(shape: Shape) -> int:
    """Parameters of one norm over the hidden size: a scale, and a bias in LayerNorm."""
    return shape.hidden_size * (2 if shape.norm_bias else 1)
