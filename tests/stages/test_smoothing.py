"""train.label_smoothing against torch's own cross-entropy, with and without chunks of the head."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from ftlab.data.packing.collate import PackedCollator
from ftlab.stages.trainer import forward
from ftlab.stages.trainer.forward import packed_logprobs
from tests.stages.test_packed_forward import rows_of, tiny  # noqa: F401 (a fixture)
from tests.stages.trainers import a_trainer


@pytest.mark.parametrize("chunk_elements", [2304 * 7, 1 << 25])
@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_loss_and_gradient_are_those_of_torch(tiny, smoothing, chunk_elements, monkeypatch):  # noqa: F811
    monkeypatch.setattr(forward, "LOGIT_ELEMENTS", chunk_elements)
    batch = PackedCollator(pad_id=0)(rows_of((17, 40, 9), (5, 61)))

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        tiny.zero_grad()
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in tiny.parameters()])

    logits_BLV = tiny(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    logits_NV = logits_BLV.flatten(0, 1)[batch["scored"]]
    torchs = cross_entropy(logits_NV, batch["targets"], label_smoothing=smoothing)
    ours = -packed_logprobs(tiny, tiny, batch, smoothing).mean()
    assert ours.item() == pytest.approx(torchs.item(), abs=1e-5)
    assert abs(ours.item() - cross_entropy(logits_NV, batch["targets"]).item()) > 0.01
    found, expected = gradient(ours), gradient(torchs)
    assert (found - expected).norm().item() < 1e-5 * expected.norm().item()
    tiny.zero_grad()


@pytest.mark.parametrize("stage", ["pt", "sft"])
def test_the_trainer_smooths_what_it_learns_and_not_what_it_measures(stage, tmp_path):
    trainer, rows = a_trainer(tmp_path, f"stage={stage}", "train.label_smoothing=0.2", "data.max_samples=16",
                              "lora.dropout=0", "model=tiny")  # fmt: skip
    batch = PackedCollator(pad_id=0)([rows[0]])
    model = trainer.model.train()
    with torch.no_grad():
        plain, smoothed = (packed_logprobs(model, model, batch, s) for s in (0.0, 0.2))
        loss = trainer.compute_loss(model, batch).item()
        assert loss == pytest.approx(-smoothed.mean().item(), abs=1e-6)
        assert loss > -plain.mean().item() + 0.05
        assert torch.equal(trainer.outputs(model.eval(), batch), plain)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("stage=dpo train.label_smoothing=0.1",
         "train.label_smoothing=0.1: smooths the cross-entropy of pt and sft, and this is stage=dpo; its own key is "
         "stage.label_smoothing"),
        ("stage=ppo train.label_smoothing=0.1",
         "train.label_smoothing=0.1: smooths the cross-entropy of pt and sft, and this is stage=ppo"),
        ("train.label_smoothing=1", "train.label_smoothing=1: must be less than 1"),
        ("train.engine=trl stage.neftune_alpha=5", "stage.neftune_alpha=5.0: needs train.engine=ftlab"),
        ("stage=dpo train.engine=trl data.share_prompts=true", "data.share_prompts=true: needs train.engine=ftlab"),
    ],
)  # fmt: skip
def test_where_it_would_be_ignored_it_is_refused(line, said, mistakes):
    assert mistakes(line) == [said]
