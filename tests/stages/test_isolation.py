"""How packed samples are kept apart, family by family: whatever a row holds, each sample trains as it would alone."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ftlab.data.packing.collate import BY_SEGMENT, PackedCollator
from ftlab.data.packing.store import PackedRow
from ftlab.policy.build import build_model
from ftlab.policy.tokens import load_tokens
from ftlab.stages.losses import cross_entropy
from ftlab.stages.trainer.forward import packed_logprobs
from ftlab.stages.trainer.isolation import BY_MASK, probe_isolation
from tests.compatibility import save_family
from tests.families import family_model
from tests.runs import make_run
from tests.stages.test_packed_forward import rows_of
from tests.stages.trainers import plain_logprobs

VOCAB = 97
ROWS = rows_of((17, 40, 9), (5, 50), (2, 3, 30), vocab=VOCAB)

# What each kind is of: its members, and how their samples are kept apart.
KINDS = {
    "positions heeded": (["llama", "llama4_text", "mistral", "gemma2", "qwen3_moe"], "position_ids"),
    "rotary, positions not handed to the mask": (["falcon"], "block_mask"),
    "learned positions, not handed to the mask": (["opt"], "block_mask"),
    "ALiBi, added to a mask of its own": (["falcon:alibi", "bloom"], "one_per_row"),
    "ALiBi, beside the mask": (["mpt"], "block_mask"),
    "sinks": (["gpt_oss"], "block_mask"),
    "linear attention": (["qwen3_next", "qwen3_5_text"], "one_per_row"),
    "convolutions over time": (["lfm2"], "one_per_row"),
    "state spaces": (["mamba", "mamba2", "bamba", "jamba", "granitemoehybrid"], "one_per_row"),
    "recurrent units": (["recurrent_gemma"], "one_per_row"),
}
FAMILIES = [(family, isolation) for families, isolation in KINDS.values() for family in families]


@functools.cache
def model_of(family: str) -> Any:
    return family_model(family, VOCAB).eval()


@pytest.mark.parametrize(("family", "isolation"), FAMILIES)
def test_each_sample_of_a_packed_row_is_what_it_is_alone(family, isolation):
    """Log-probabilities to 1e-5, in rows of several samples and batches of several rows, padded; and the gradient is
    that of the samples one by one."""
    model = model_of(family)
    assert probe_isolation(model, ROWS[0], 0).isolation == isolation
    batch = PackedCollator(0, isolation=isolation)(ROWS)
    logprobs = packed_logprobs(model, model, batch)
    samples = [sample for row in ROWS for sample in row.samples]
    alone = torch.cat([plain_logprobs(model, sample) for sample in samples])
    assert (logprobs - alone).abs().max().item() < 1e-5 * alone.abs().max().item()
    assert abs(logprobs.mean().item() - alone.mean().item()) < 1e-5


def test_memory_that_runs_out_is_no_verdict_on_a_family():
    """It is an error of the same kind as those of a mask that does not fit, and would cost the packing in silence."""

    def run_out(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    for family in ("llama", "falcon"):
        model = family_model(family, VOCAB)
        model.get_input_embeddings().register_forward_pre_hook(run_out)
        with pytest.raises(torch.OutOfMemoryError):
            probe_isolation(model, ROWS[0], 0)


@pytest.mark.parametrize("family", ["falcon", "falcon:alibi", "qwen3_next", "gpt_oss", "mamba"])
def test_gradients_are_those_of_the_samples_one_by_one(family):
    model = model_of(family)
    isolation = dict(FAMILIES)[family]

    def gradient(batches: list[dict[str, Any]]) -> torch.Tensor:
        model.zero_grad()
        for batch in batches:
            cross_entropy(packed_logprobs(model, model, batch), 100).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    samples = [sample for row in ROWS for sample in row.samples]
    together = gradient([PackedCollator(0, isolation=isolation)(ROWS)])
    alone = gradient([PackedCollator(0)([PackedRow((sample,))]) for sample in samples])
    assert together.norm().item() > 1e-2
    assert (together - alone).norm().item() < 1e-4 * together.norm().item()


def test_samples_one_to_a_row_cost_little_padding_and_keep_their_places():
    batch = PackedCollator(0, isolation="one_per_row")(ROWS)
    plain = PackedCollator(0)(ROWS)
    assert all(torch.equal(batch[name], value) for name, value in plain.items() if isinstance(value, torch.Tensor))
    places = torch.cat([call[call >= 0] for call in batch["calls"]])
    is_token = torch.zeros(batch["input_ids"].numel(), dtype=torch.bool)
    is_token[places] = True
    assert len(places.unique()) == len(places) == batch["tokens"] == is_token.sum().item()
    assert all(call.numel() <= batch["input_ids"].numel() for call in batch["calls"])
    assert len(batch["calls"]) < batch["samples"]
    (whole,) = PackedCollator(0, isolation="one_per_row", one_call=True)(ROWS)["calls"]
    assert whole.shape == (8, 50)


def test_the_probe_sees_every_leak_of_a_sample_of_equal_tokens():
    """A first sample of one token, or of equal tokens, is replaced by another all the same."""
    row = rows_of((1, 9), vocab=VOCAB)[0]
    row.samples[0].input_ids[:] = 0
    assert probe_isolation(model_of("falcon"), row, 0).isolation == "block_mask"


def test_an_adapter_and_half_precision_change_nothing_of_the_way():
    model = get_peft_model(family_model("falcon", VOCAB).bfloat16(), LoraConfig(r=4, target_modules="all-linear"))
    assert probe_isolation(model, ROWS[0], 0).isolation == "block_mask"
    assert model.training, "the probe leaves the mode as it was"


@pytest.mark.parametrize("family", ["falcon", "falcon:alibi", "opt", "gpt_oss", "qwen3_next", "lfm2", "mamba"])
def test_unpacked_rows_beside_each_other_are_right_without_another_way(family):
    """``data.packing=false``: one sample to a row, padded on the right to the longest."""
    model = model_of(family)
    samples = [sample for row in ROWS for sample in row.samples]
    batch = PackedCollator(0)([PackedRow((sample,)) for sample in samples])
    alone = torch.cat([plain_logprobs(model, sample) for sample in samples])
    assert (packed_logprobs(model, model, batch) - alone).abs().max().item() < 1e-5 * alone.abs().max().item()


@pytest.mark.parametrize(("family", "isolation"), [("llama", "position_ids"), ("qwen3_next", "one_per_row")])
def test_int8_is_probed_within_its_rounding(family, isolation, tmp_path):
    """Its outlier columns are chosen over the whole batch, so that nothing there is equal to the bit."""
    run = make_run("model=local", f"model.path={save_family(family, tmp_path)}", "quant=int8", "method=lora")
    model, _ = build_model(run, load_tokens(run))
    assert probe_isolation(model, rows_of((60, 30))[0], 0).isolation == isolation


# A family of every kind: grouped heads, windows in all layers or some of them, chunks, experts, learned positions.
SEGMENTED = ["llama", "llama4_text", "mistral", "qwen2:sliding", "gemma3_text", "qwen3_moe", "phi3", "opt"]


@pytest.mark.parametrize("family", SEGMENTED)
def test_by_segments_each_sample_is_what_it_is_under_the_old_attention(family):
    """Log-probabilities and the gradient are those of sdpa, sample by sample; under checkpointing too."""
    model = family_model(family, VOCAB, dropout=0.0)
    samples = [sample for row in ROWS for sample in row.samples]

    def gradient(logprobs: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        cross_entropy(logprobs, 100).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    alone = torch.cat([plain_logprobs(model, sample) for sample in samples])
    wanted = gradient(torch.cat([packed_logprobs(model, model, PackedCollator(0)([PackedRow((s,))])) for s in samples]))
    assert probe_isolation(model, ROWS[0], 0, (*BY_SEGMENT, *BY_MASK), 64).isolation == "segments"
    batch = PackedCollator(0, isolation="segments")(ROWS)
    assert batch["input_ids"].shape == (1, batch["tokens"]), "there is no padding"
    model.gradient_checkpointing_enable({"use_reentrant": False})
    logprobs = packed_logprobs(model, model, batch)
    assert (logprobs - alone).abs().max().item() < 1e-5 * alone.abs().max().item()
    found = gradient(logprobs)
    assert wanted.norm().item() > 1e-2
    assert (found - wanted).norm().item() < 1e-4 * wanted.norm().item()


@pytest.mark.parametrize(
    ("family", "longest", "reason"),
    [
        ("gpt2", 64, "attn_pdrop"),
        ("falcon", 64, "attention of their own"),
        ("qwen3_next", 64, "linear_attention"),
        ("llama4_text", 1 << 20, "chunked_attention"),
    ],
)
def test_what_segments_would_get_wrong_goes_another_way(family, longest, reason):
    model = family_model(family, VOCAB)
    found = probe_isolation(model, ROWS[0], 0, (*BY_SEGMENT, *BY_MASK), longest)
    assert found.isolation not in BY_SEGMENT and reason in found.reasons["segments"]
    assert model.config._attn_implementation == "sdpa", "its attention is what it was"


def test_answers_with_a_cache_are_those_of_sdpa_to_the_bit():
    """Whatever is no packed batch: no layout comes along."""
    model = model_of("qwen2:sliding")
    prompts = torch.tensor([[0, 0, 5, 7, 9], [11, 12, 13, 14, 15]])
    asked = {"attention_mask": (prompts != 0).long(), "max_new_tokens": 12, "do_sample": False, "eos_token_id": None}

    def scores() -> torch.Tensor:
        found = model.generate(prompts, **asked, return_dict_in_generate=True, output_logits=True)
        return torch.stack(found.logits)

    wanted = scores()
    model.set_attn_implementation("segments")
    try:
        assert torch.equal(scores(), wanted)
    finally:
        model.set_attn_implementation("sdpa")


def test_a_kernel_that_computes_something_else_is_found_out(monkeypatch):
    """Forward and backward of the kernel are compared with attention written out by hand before it is used."""
    from ftlab.model.attention import self_check

    real = self_check.kernel_of
    model = family_model("llama", VOCAB)
    monkeypatch.setattr(self_check, "kernel_of", lambda *which: lambda *given: real(*which)(*given) * 1.001)
    found = probe_isolation(model, ROWS[0], 0, (*BY_SEGMENT, *BY_MASK), 64)
    assert found.isolation == "position_ids"
    assert "the kernel of cpu is off by 0.001" in found.reasons["segments"]
