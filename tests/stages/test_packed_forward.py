"""The packed forward: isolated, exact against formulas written out by hand, and blind to how a batch is split."""

from __future__ import annotations

import copy
import json
import math
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.masking_utils import flash_attention_mask

from benchmarks.tokens_per_real_token import measure
from ftlab.config.paths import shipped
from ftlab.data.packing.collate import PackedCollator
from ftlab.data.packing.store import IGNORE, PackedRow, Sample
from ftlab.model.head import logits_function
from ftlab.model.modules import bare_model
from ftlab.stages.losses import cross_entropy
from ftlab.stages.trainer import forward
from ftlab.stages.trainer.forward import packed_hidden, packed_logprobs

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return AutoModelForCausalLM.from_pretrained(shipped("models/tiny"), dtype=torch.float32).eval()


def sample(length: int, seed: int, vocab: int = 2000) -> Sample:
    """Random tokens, about half of them labels."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(10, vocab, length).astype(np.int32)
    learned = draw.random(length) < 0.5
    learned[0], learned[-1] = False, True
    return Sample(ids, learned)


def rows_of(*lengths_by_row: tuple[int, ...], vocab: int = 2000) -> list[PackedRow]:
    seeds = iter(range(100))
    return [PackedRow(tuple(sample(length, next(seeds), vocab) for length in lengths)) for lengths in lengths_by_row]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("flatten", [False, True])
def test_logits_of_each_packed_sample_equal_its_logits_alone(tiny, attention, flatten):
    """In float64: logits of 15 in float32 are rounded by 1e-6 in every layer, whatever stands beside them."""
    model = copy.deepcopy(tiny).double()
    model.set_attn_implementation(attention)
    rows = rows_of((17, 40, 9), (5, 61))
    batch = PackedCollator(pad_id=0, flatten=flatten)(rows)
    with torch.no_grad():
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    start = 0
    for b, row in enumerate(rows):
        start = start if flatten else 0
        for one in row.samples:
            end = start + len(one.input_ids)
            ids = torch.tensor(one.input_ids, dtype=torch.long)[None]
            with torch.no_grad():
                alone = model(input_ids=ids, use_cache=False).logits[0]
            together = packed[0 if flatten else b, start:end]
            assert (together - alone).abs().max().item() < 1e-5
            start = end


def test_attention_for_variable_lengths_is_told_them(tiny):
    """As transformers' flash attention takes them, so that it need not wait for a device to read them from positions.
    What stands in for it here knows of samples by nothing else."""
    told = []

    def attend(module, query_BHLD, key_BGLD, value_BGLD, mask, scaling, **given):
        told.append([given[name] for name in ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")])
        outs = []
        ends = given["cu_seq_lens_q"].tolist()
        for start, end in pairwise(ends):
            states = [state[:, :, start:end] for state in (query_BHLD, key_BGLD, value_BGLD)]
            outs.append(scaled_dot_product_attention(*states, is_causal=True, scale=scaling, enable_gqa=True))
        return torch.cat(outs, dim=2).transpose(1, 2), None

    AttentionInterface.register("variable_length_test", attend)
    AttentionMaskInterface.register("variable_length_test", flash_attention_mask)
    rows = rows_of((17, 40, 9), (5, 61))
    model = copy.deepcopy(tiny).double()
    with torch.no_grad():
        by_positions = packed_hidden(model, PackedCollator(pad_id=0, flatten=True)(rows))
        model.set_attn_implementation("variable_length_test")
        by_lengths = packed_hidden(model, PackedCollator(pad_id=0, flatten=True)(rows))
    assert (by_lengths - by_positions).abs().max().item() < 1e-10
    queries, keys, longest_query, longest_key = told[-1]
    assert queries.tolist() == keys.tolist() == [0, 17, 57, 66, 71, 132] and queries.dtype == torch.int32
    assert longest_query == longest_key == 61


@pytest.mark.parametrize("chunk_elements", [2048 * 7, 1 << 25])
def test_loss_equals_cross_entropy_written_out_by_hand(tiny, monkeypatch, chunk_elements):
    """-log(exp(z_target) / sum exp(z)) over every label of the same rows, one sample at a time, in float64."""
    monkeypatch.setattr(forward, "LOGIT_ELEMENTS", chunk_elements)
    rows = rows_of((17, 40, 9), (5, 61))
    total, count = 0.0, 0
    for row in rows:
        for one in row.samples:
            with torch.no_grad():
                logits = tiny(input_ids=torch.tensor(one.input_ids, dtype=torch.long)[None]).logits[0].double()
            for place in range(1, len(one.labels)):
                if one.labels[place] != IGNORE:
                    z = logits[place - 1]
                    total += -math.log(torch.exp(z[one.labels[place]]).item() / torch.exp(z).sum().item())
                    count += 1
    batch = PackedCollator(pad_id=0)(rows)
    logprobs = packed_logprobs(tiny, tiny, batch)
    assert len(logprobs) == count
    assert abs(cross_entropy(logprobs, count).item() - total / count) < 1e-5


def test_gradients_do_not_depend_on_the_chunks_of_the_head(tiny, monkeypatch):
    batch = PackedCollator(pad_id=0)(rows_of((17, 40, 9), (5, 61)))

    def gradients(elements: int) -> list[torch.Tensor]:
        monkeypatch.setattr(forward, "LOGIT_ELEMENTS", elements)
        tiny.zero_grad()
        cross_entropy(packed_logprobs(tiny, tiny, batch), len(batch["targets"])).backward()
        return [parameter.grad.clone() for parameter in tiny.parameters()]

    whole, chunked = gradients(1 << 25), gradients(2048 * 5)
    tiny.zero_grad()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, chunked))
    assert sum(gradient.abs().sum().item() for gradient in whole) > 1.0


@pytest.mark.parametrize("elements", [1 << 25, 2048 * 5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_frozen_head_passes_the_gradients_on_that_one_which_trains_does(tiny, monkeypatch, elements, smoothing):
    """Each position with a weight of its own, as preference losses have them."""
    monkeypatch.setattr(forward, "LOGIT_ELEMENTS", elements)
    batch = PackedCollator(pad_id=0)(rows_of((17, 40, 9), (5, 61)))
    weights = torch.linspace(-1, 2, len(batch["targets"]))
    head = tiny.get_output_embeddings().weight

    def gradients(is_frozen: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        tiny.zero_grad()
        head.requires_grad_(not is_frozen)
        found = packed_logprobs(tiny, tiny, batch, smoothing)
        (found * weights).sum().backward()
        return found.detach(), [p.grad.clone() for p in tiny.parameters() if p is not head]

    try:
        frozen, trained = gradients(True), gradients(False)
    finally:
        head.requires_grad_(True)
    assert torch.equal(frozen[0], trained[0])
    for one, other in zip(frozen[1], trained[1]):
        assert (one - other).norm() < 1e-5 * other.norm()
    tiny.zero_grad()


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_head_that_trains_is_computed_once_where_all_positions_weigh_alike(tiny, monkeypatch, smoothing, autocast):
    """Gradients that are summed in the forward, beside those of logits that are computed again in the backward."""
    monkeypatch.setattr(forward, "LOGIT_ELEMENTS", 2048 * 5)
    batch = PackedCollator(pad_id=0)(rows_of((17, 40, 9), (5, 61)))
    head, calls = tiny.get_output_embeddings(), []
    handle = head.register_forward_hook(lambda module, given, out: calls.append(len(out)))

    def gradients(equal_weights: bool) -> tuple[torch.Tensor, list[torch.Tensor], int]:
        tiny.zero_grad()
        calls.clear()
        for _ in range(2):  # the second is added to the first, as micro-batches are
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                found = packed_logprobs(tiny, tiny, batch, smoothing, equal_weights)
            cross_entropy(found, len(batch["targets"])).backward()
        return found.detach(), [parameter.grad.clone() for parameter in tiny.parameters()], sum(calls) // 2

    try:
        once, twice = gradients(True), gradients(False)
    finally:
        handle.remove()
        tiny.zero_grad()
    positions, rows = len(batch["targets"]), 2  # the model itself has the head compute one position of each row
    assert (once[2], twice[2]) == (positions + rows, 2 * positions + rows)
    assert torch.equal(once[0], twice[0])
    for one, other in zip(once[1], twice[1]):
        assert (one - other).norm() < (1e-5 if autocast is None else 1e-2) * other.norm()


def test_logits_of_one_chunk_are_gone_before_those_of_the_next_are_there(tiny, monkeypatch):
    monkeypatch.setattr(forward, "LOGIT_ELEMENTS", 2048 * 5)
    batch = PackedCollator(pad_id=0)(rows_of((17, 40, 9), (5, 61)))
    outputs: list[weakref.ref[torch.Tensor]] = []
    before: list[int] = []  # how many of earlier chunks are there as one comes

    def look(module, given, out):
        before.append(sum(one() is not None for one in outputs))
        outputs.append(weakref.ref(out))

    handle = tiny.get_output_embeddings().register_forward_hook(look)
    try:
        packed_logprobs(tiny, tiny, batch, equal_weights=True)
    finally:
        handle.remove()
    assert len(before) > 3 and set(before) == {0}


def test_positions_that_do_not_weigh_alike_are_noticed(tiny, monkeypatch):
    monkeypatch.setattr(forward, "LOGIT_ELEMENTS", 2048 * 5)
    batch = PackedCollator(pad_id=0)(rows_of((17, 40, 9), (5, 61)))
    found = packed_logprobs(tiny, tiny, batch, equal_weights=True)
    with pytest.raises(AssertionError, match="the loss has to give each position the same weight"):
        (found * torch.linspace(-1, 2, len(found))).sum().backward()
    tiny.zero_grad()


def test_sums_over_positions_do_not_become_infinite_in_fp16(tiny, monkeypatch):
    monkeypatch.setattr(forward, "LOGIT_ELEMENTS", 2048 * 50)
    rows = [PackedRow((Sample(np.full(400, 7), np.ones(400, bool)),))]  # of one token, whose gradients add up
    batch = PackedCollator(pad_id=0)(rows)
    norm = tiny.model.norm.weight
    with torch.no_grad():
        norm.mul_(2000)
    try:
        with torch.autocast("cpu", torch.float16):
            found = packed_logprobs(tiny, tiny, batch, equal_weights=True)
        cross_entropy(found, len(found)).backward()
        assert all(parameter.grad.isfinite().all() for parameter in tiny.parameters())
    finally:
        with torch.no_grad():
            norm.div_(2000)
        tiny.zero_grad()


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2), (3, 1), (4,)])
def test_loss_and_gradient_do_not_depend_on_how_a_global_batch_is_split(tiny, sizes):
    rows = rows_of((17, 40), (5, 50), (30, 30), (9, 9, 9))
    collate = PackedCollator(pad_id=0)
    items = len(collate(rows)["targets"])

    def accumulate(parts: tuple[int, ...]) -> tuple[float, torch.Tensor]:
        tiny.zero_grad()
        total, start = 0.0, 0
        for size in parts:
            loss = cross_entropy(packed_logprobs(tiny, tiny, collate(rows[start : start + size])), items)
            loss.backward()
            total, start = total + loss.item(), start + size
        return total, torch.cat([parameter.grad.flatten() for parameter in tiny.parameters()])

    loss, gradient = accumulate(sizes)
    whole_loss, whole_gradient = accumulate((4,))
    tiny.zero_grad()
    assert abs(loss - whole_loss) < 1e-5
    assert (gradient - whole_gradient).abs().max().item() < 1e-5


@pytest.mark.parametrize(
    "model",
    [
        LlamaForCausalLM(LlamaConfig(**SMALL)),
        Gemma2ForCausalLM(Gemma2Config(**SMALL, final_logit_softcapping=2.0, attn_implementation="eager")),
        CohereForCausalLM(CohereConfig(**{k: v for k, v in SMALL.items() if k != "head_dim"}, logit_scale=0.25)),
        GraniteForCausalLM(GraniteConfig(**{k: v for k, v in SMALL.items() if k != "head_dim"}, logits_scaling=4.0)),
    ],
    ids=lambda model: model.config.model_type,
)
def test_head_gives_each_architecture_its_own_logits(model):
    """Soft caps and scales of the families that have them are applied as in their own forward."""
    with torch.no_grad():
        for parameter in model.get_output_embeddings().parameters():
            parameter.mul_(20)
        out = model.eval()(torch.arange(1, 20)[None], use_cache=False, output_hidden_states=True)
        ours = logits_function(model)(out.hidden_states[-1])
    assert torch.allclose(ours, out.logits.float(), atol=1e-5)
    assert ours.abs().max().item() > 0.5


@pytest.mark.parametrize("stage", ["dpo", pytest.param("kto", marks=pytest.mark.matrix)])
def test_what_is_computed_are_tokens_and_not_padding(stage, tmp_path):
    """On answers of very different lengths, where TRL's batches of 8 are half padding or more."""
    draw = np.random.default_rng(0)

    def answer() -> str:
        return " ".join(draw.choice(["red", "green", "blue"], int(draw.lognormal(2.5, 1.0)) + 1))

    rows = [
        {"prompt": "Name colours.", "chosen": answer(), "rejected": answer()}
        if stage == "dpo"
        else {"prompt": "Name colours.", "completion": answer(), "label": bool(i % 2)}
        for i in range(40)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    data = [f"data.path={tmp_path}/rows.json", f"data.format={'kto' if stage == 'kto' else 'preference'}"]
    ours = measure(stage, "ftlab", 8, [*data, "train.micro_batch_size=1"])
    theirs = measure(stage, "trl", 8, data)
    assert ours.real == ours.positions == ours.reference == theirs.real > 1000, "row by row there is no padding at all"
    assert theirs.positions > 1.4 * theirs.real and theirs.reference > 1.4 * theirs.real
    if stage == "dpo":  # two rows at a time, the default: the shorter one is padded, most of all beside the last one
        two = measure(stage, "ftlab", 8, data)
        assert two.real < two.positions <= 1.15 * two.real and two.reference <= 1.15 * two.real


_HEADS = {"head_dim": 16, "num_key_value_heads": 2}
FAMILIES = {
    "llama": {"intermediate_size": 64}, "gemma2": {"intermediate_size": 64, **_HEADS}, "qwen3": _HEADS,
    "gpt_neox": {"intermediate_size": 64}, "gpt2": {}, "phi": {"intermediate_size": 64}, "cohere": {},
}  # fmt: skip


@pytest.mark.parametrize("adapted", [False, True])
def test_the_last_hidden_states_are_those_that_the_head_reads(adapted):
    """In every family, with an adapter or without: equal to the bit to the last of ``output_hidden_states``."""
    different = []
    for name, more in FAMILIES.items():
        config = AutoConfig.for_model(
            name, vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0, **more
        )
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config).eval()
        if adapted:
            model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        ids = torch.arange(1, 20)[None]
        with torch.no_grad():
            whole = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[-1]
            if not torch.equal(packed_hidden(model, {"input_ids": ids, "position_ids": ids - 1}), whole):
                different.append(name)
    assert different == []


def test_hidden_states_of_the_layers_before_are_not_kept():
    """Where nothing is trained, one layer's output is gone when the next one has been computed: of 24 layers, the
    forward holds the last alone."""
    model = LlamaForCausalLM(LlamaConfig(**{**SMALL, "num_hidden_layers": 24})).eval()
    outputs: list[weakref.ref] = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, args, output: outputs.append(weakref.ref(output)))
    alive = []
    model.get_output_embeddings().register_forward_hook(
        lambda *_: alive.append(sum(output() is not None for output in outputs))
    )
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        packed_hidden(model, {"input_ids": ids, "position_ids": ids - 1})
    assert len(outputs) == 24 and alive == [0]


@pytest.mark.parametrize("is_adapted", [False, True])
def test_a_model_is_found_within_what_wraps_it(tiny, is_adapted):
    model = get_peft_model(copy.deepcopy(tiny), LoraConfig(target_modules="all-linear")) if is_adapted else tiny
    assert bare_model(model) is bare_model(torch.nn.DataParallel(model)) is model
    roles = torch.nn.ModuleDict({"policy": model})  # as ppo has them wrapped
    assert bare_model(torch.nn.DataParallel(roles)) is roles
