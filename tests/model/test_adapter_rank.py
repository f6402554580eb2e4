"""An adapter with another rank computes what it computed before, as far as the rank allows."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from ftlab.errors import NotReadyError
from ftlab.model.adapter_rank import copy_with_rank


@pytest.fixture
def adapter(tmp_path):
    """Of PEFT's own, on a small model, with weights that are not zero."""

    def make(**options):
        from peft import LoraConfig, get_peft_model
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes))
        config = LoraConfig(
            r=8, lora_alpha=16, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **options
        )
        adapted = get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        adapted.save_pretrained(tmp_path / "adapter")
        return adapted, tmp_path / "adapter"

    return make


def logits(adapted, folder):
    """Of the same base with the adapter of a folder, as PEFT loads it."""
    ids = torch.arange(24).reshape(2, 12)
    adapted.load_adapter(folder, "other")
    adapted.set_adapter("other")
    with torch.no_grad():
        return adapted.eval()(ids).logits


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}])
@pytest.mark.parametrize(("rank", "alpha"), [(16, 32), (16, 16), (8, 4)])
def test_a_higher_rank_changes_no_logit(adapter, tmp_path, rank, alpha, options):
    adapted, folder = adapter(**options)
    with torch.no_grad():
        before = adapted.eval()(torch.arange(24).reshape(2, 12)).logits
    copy_with_rank(folder, tmp_path / "new", rank, alpha)
    torch.testing.assert_close(logits(adapted, tmp_path / "new"), before, atol=1e-5, rtol=1e-5)
    assert json.loads((tmp_path / "new" / "adapter_config.json").read_text())["r"] == rank
    new = [
        tensor for name, tensor in load_file(tmp_path / "new" / "adapter_model.safetensors").items() if "lora_A" in name
    ]
    assert all(len(tensor) == rank and tensor.abs().sum(1).min() > 0 for tensor in new), "rows that can learn"


def test_a_lower_rank_keeps_the_nearest(adapter, tmp_path):
    _, folder = adapter()
    copy_with_rank(folder, tmp_path / "new", 3, 3)
    old, new = (load_file(one / "adapter_model.safetensors") for one in (folder, tmp_path / "new"))
    for name in [name for name in old if "lora_A" in name]:
        other = name.replace("lora_A", "lora_B")
        product = 2 * old[other] @ old[name]  # alpha / r was 2, and is 1
        kept = new[other] @ new[name]
        values = torch.linalg.svdvals(product)
        assert torch.linalg.matrix_norm(product - kept) == pytest.approx(values[3:].norm().item(), rel=1e-4)


def test_ranks_of_modules_are_refused(adapter, tmp_path):
    _, folder = adapter(rank_pattern={"q_proj": 4})
    with pytest.raises(NotReadyError, match="modules with a rank of their own"):
        copy_with_rank(folder, tmp_path / "new", 4, 4)
