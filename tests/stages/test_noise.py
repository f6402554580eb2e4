"""NEFTune (https://arxiv.org/abs/2310.05914): noise of the published size for each sample, in training alone."""

from __future__ import annotations

import math

import pytest
import torch

from ftlab.data.packing.collate import PackedCollator
from ftlab.model.adapter import apply_method
from ftlab.model.load import load_model
from ftlab.stages.trainer.forward import packed_logprobs
from ftlab.stages.trainer.neftune import lengths_of_samples, noise_scales, noisy_embeddings
from tests.runs import make_run
from tests.stages.test_packed_forward import rows_of
from tests.stages.trainers import a_trainer

ALPHA, SIZE = 5.0, 128
LENGTHS = ((17, 40, 9), (5, 61))  # the second row is as long as the first, so no row has padding by chance


@pytest.mark.parametrize("flatten", [False, True])
def test_every_token_knows_the_length_of_its_own_sample(flatten):
    batch = PackedCollator(pad_id=0, flatten=flatten)(rows_of((17, 40, 9), (5, 20)))
    found = lengths_of_samples(batch["position_ids"]).flatten().tolist()
    padding = [] if flatten else [1] * 41
    assert found == [17] * 17 + [40] * 40 + [9] * 9 + [5] * 5 + [20] * 20 + padding


def test_noise_is_uniform_up_to_alpha_over_the_root_of_length_times_size():
    batch = PackedCollator(pad_id=0)(rows_of((17, 40, 9), (5, 20)))
    embeddings = torch.nn.Embedding(2304, SIZE)
    clean_BLD = embeddings(batch["input_ids"])
    torch.manual_seed(0)
    with noisy_embeddings(embeddings, batch, ALPHA):
        noise_BLD = (embeddings(batch["input_ids"]) - clean_BLD).detach()
    spans = {17: (0, 0, 17), 40: (0, 17, 57), 9: (0, 57, 66), 5: (1, 0, 5), 20: (1, 5, 25)}
    for length, (row, start, end) in spans.items():
        bound = ALPHA / math.sqrt(length * SIZE)
        part = noise_BLD[row, start:end]
        assert bound * 0.98 < part.abs().max().item() <= bound * (1 + 1e-5)
        # A uniform draw between -b and b has a standard deviation of b / sqrt(3).
        assert part.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert abs(part.mean().item()) < 0.1 * bound
    assert not noise_BLD[1, 25:].any(), "padding is noisy"
    assert torch.equal(embeddings(batch["input_ids"]), clean_BLD), "the noise outlives its forward"


def test_a_sample_has_the_noise_it_would_have_alone():
    together = noise_scales(PackedCollator(pad_id=0)(rows_of((17, 40)))["position_ids"], ALPHA, SIZE)
    alone = noise_scales(PackedCollator(pad_id=0)(rows_of((17,)))["position_ids"], ALPHA, SIZE)
    assert torch.equal(together[0, :17], alone[0])
    packed_length = ALPHA / math.sqrt(57 * SIZE)  # what transformers' own NEFTune would take
    assert together[0, 0].item() > 1.5 * packed_length


@pytest.mark.parametrize("method", ["lora", "qlora", "full", "freeze"])
def test_training_is_noisy_and_evaluation_is_not(method, tmp_path):
    trainer, rows = a_trainer(tmp_path, f"method={method}", "stage.neftune_alpha=5", "data.max_samples=16",
                              "lora.dropout=0", "model=tiny")  # fmt: skip
    batch = PackedCollator(pad_id=0)([rows[0]])
    model = trainer.model
    with torch.no_grad():
        clean = packed_logprobs(model.eval(), model, batch)
        assert torch.equal(trainer.outputs(model, batch), clean)
        model.train()
        noisy = [trainer.outputs(model, batch) for _ in range(2)]
        assert torch.equal(packed_logprobs(model, model, batch), clean), "the hook stays behind"
    assert not torch.equal(noisy[0], clean) and not torch.equal(noisy[0], noisy[1])
    assert (noisy[0] - clean).abs().max().item() > 1e-3


def test_noise_reaches_a_model_with_trained_tokens_beside_its_adapter():
    """PEFT wraps the embedding layer then, and it is the wrapper that the model calls."""
    run = make_run("model=tiny", "lora.dropout=0")
    model = apply_method(load_model(run), run, [5]).eval()
    batch = PackedCollator(pad_id=0)(rows_of((17,)))
    with torch.no_grad():
        clean = packed_logprobs(model, model, batch)
        with noisy_embeddings(model.get_input_embeddings(), batch, ALPHA):
            assert not torch.equal(packed_logprobs(model, model, batch), clean)
