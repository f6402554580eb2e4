"""Several roles on one base: what each sees, what trains, what is saved."""

from __future__ import annotations

import pytest
import torch

from ftlab.model.adapter import apply_method
from ftlab.model.guests import GuestAdapters, active_adapter, has_adapter
from ftlab.model.load import load_model
from ftlab.model.roles import CRITIC, POLICY, REFERENCE, Roles
from tests.runs import make_run

IDS = torch.arange(20, 36)[None]


def policy(*overrides: str):
    run = make_run("stage=ppo", *overrides)
    torch.manual_seed(0)
    return apply_method(load_model(run), run).eval()


def roles_of(model) -> Roles:
    return Roles(model, GuestAdapters(model) if has_adapter(model) else None, {"use_reentrant": False})


def logits(model) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model=tiny", "lora.variant=dora"),
        ("model=tiny", "lora.variant=pissa"),
        ("method=qlora",),
        ("method=full",),
        ("method=freeze",),
    ],
    ids=["lora", "dora", "pissa", "qlora", "full", "freeze"],
)
def test_critic_and_reference_begin_as_the_policy_and_the_reference_stays(overrides):
    model = policy(*overrides)
    before = logits(model)
    roles = roles_of(model)
    assert torch.equal(logits(model), before), "making roles changed the policy"
    for role in (CRITIC, REFERENCE):
        with roles.acting(role) as other:
            assert torch.equal(logits(other), before), role
    with torch.no_grad():
        for parameter in roles.parameters(POLICY).values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    assert not torch.equal(logits(model), before)
    for role in (CRITIC, REFERENCE):
        with roles.acting(role) as other:
            assert torch.equal(logits(other), before), f"{role} moved with the policy"
    with torch.no_grad():
        for parameter in roles.parameters(CRITIC).values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    with roles.acting(REFERENCE) as other:
        assert torch.equal(logits(other), before), "the reference moved with the critic"


@pytest.mark.parametrize("method", ["lora", "full"])
def test_activations_of_the_critic_are_computed_again_where_the_policys_are(method):
    """It is switched on in the policy once training begins, when the critic has been copied."""
    model = policy(f"method={method}")
    roles = roles_of(model)

    def kept(role: str) -> int:
        sizes = []
        with (
            torch.autograd.graph.saved_tensors_hooks(
                lambda saved: (sizes.append(saved.numel()), saved)[1], lambda x: x
            ),
            roles.acting(role) as acting,
        ):
            logits(acting)
        return sum(sizes)

    roles.train(True)
    everything = kept(CRITIC)
    model.activation_checkpointing_enable({"use_reentrant": False})
    roles.train(True)
    assert kept(CRITIC) == kept(POLICY) < everything / 2


@pytest.mark.parametrize("method", ["lora", "qlora", "full", "freeze"])
def test_each_backward_reaches_its_own_role_only(method):
    roles = roles_of(policy(f"method={method}"))
    mine, theirs = roles.parameters(POLICY), roles.parameters(CRITIC)
    assert not {id(p) for p in mine.values()} & {id(p) for p in theirs.values()}
    with roles.acting(POLICY) as model:
        logits(model).square().mean().backward()
    assert all(p.grad is None for p in theirs.values())
    assert all(p.grad is not None for p in mine.values())
    for parameter in mine.values():
        parameter.grad = None
    with roles.acting(CRITIC) as model:
        hidden = model(input_ids=IDS, use_cache=False, output_hidden_states=True).hidden_states[-1]
        roles.heads[CRITIC](hidden).square().mean().backward()
    assert all(p.grad is None for p in mine.values())
    assert sum(p.grad is not None and bool(p.grad.any()) for p in theirs.values()) > 1


def test_switching_leaves_what_trains_as_it_was_and_comes_back_after_an_error():
    model = policy()
    roles = roles_of(model)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    active = logits(model)
    with pytest.raises(ZeroDivisionError), active_adapter(model, CRITIC):
        assert {name: p.requires_grad for name, p in model.named_parameters()} == before
        raise ZeroDivisionError
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert torch.equal(logits(model), active)
    model.set_adapter("default")  # as transformers does when it loads a checkpoint
    roles.restore_flags()
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_only_the_policy_is_saved(tmp_path):
    from safetensors.torch import load_file

    model = policy()
    model.save_pretrained(tmp_path / "before")
    roles_of(model)
    model.save_pretrained(tmp_path / "after")
    assert sorted(p.name for p in (tmp_path / "after").iterdir()) == sorted(
        p.name for p in (tmp_path / "before").iterdir()
    )
    before, after = (load_file(tmp_path / when / "adapter_model.safetensors") for when in ("before", "after"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
