"""Every stage with every method, through the engine: what trains, what does not, and that what is saved can be used."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ftlab.data.tokens.templates import Template
from ftlab.engine.hooks import PhaseHooks
from ftlab.model import load
from ftlab.model.score import score_of
from ftlab.rundir.directory import RunDir
from tests.runs import across, metrics, train_run

STAGES = ("pt", "sft", "rm", "ppo", "dpo", "kto", "orpo", "grpo")
METHODS = ("full", "freeze", "lora", "qlora")
# What else may be chosen, with the method that it is. A shipped adapter has a variant of its own: those begin anew.
VARIANTS = {
    "fp4": ("qlora", "quant=fp4"),
    "int8": ("qlora", "quant=int8"),
    "dora": ("lora", "lora=dora", "model=tiny"),
    "rslora": ("lora", "lora=rslora", "model=tiny"),
    "pissa": ("lora", "lora=pissa", "model=tiny"),
    "loraplus": ("lora", "lora=loraplus"),
    "bf16": ("lora", "hardware.precision=bf16"),
    "bf16-full": ("full", "hardware.precision=bf16"),
    "checkpointing": ("lora", "train.gradient_checkpointing=true"),
    "checkpointing-full": ("full", "train.gradient_checkpointing=true"),
    "checkpointing-qlora": ("qlora", "train.gradient_checkpointing=true"),
}
SHORT = (
    "train.max_steps=3", "train.logging_steps=1", "train.warmup_ratio=0", "train.lr_scheduler=constant",
    "train.learning_rate=1e-3", "train.micro_batch_size=2", "train.gradient_accumulation_steps=1",
    "data.max_samples=32", "data.split.golden=none", "data.split.validation=none", "eval.samples=0",
    "eval.golden_rows=0", "tracker=none", "hardware.precision=fp32",
)  # fmt: skip
OF_STAGE = {
    "ppo": ("stage.rollout_batch_size=8", "stage.mini_batch_size=4", "stage.ppo_epochs=2", "stage.max_new_tokens=8",
            "stage.early_stop_kl=null"),
    "grpo": ("stage.num_generations=4", "train.micro_batch_size=8", "stage.max_new_tokens=8"),
}  # fmt: skip
IDS = torch.arange(20, 52)[None]


class Watched(PhaseHooks):
    """What the model of a phase was like before and after training."""

    def model_loaded(self, phase: Any) -> None:
        self.config, self.model = phase.config, phase.model
        self.before = weights(phase.model)

    def final_saved(self, phase: Any) -> None:
        self.after = weights(phase.model)
        self.given = self.output_of(phase.model)

    @torch.no_grad()
    def output_of(self, model: Any) -> torch.Tensor:
        """Logits of some tokens, or what a reward model makes of them."""
        model = model.eval()
        if self.config.stage.name != "rm":
            return model(input_ids=IDS).logits
        if hasattr(model, "num_labels") and type(model.get_base_model()).__name__.endswith("Classification"):
            return model(input_ids=IDS).logits[:, 0]
        hidden = model(input_ids=IDS, output_hidden_states=True, use_cache=False).hidden_states[-1]
        return score_of(model)(hidden[:, -1].float())[:, 0]


def weights(model: Any) -> dict[str, torch.Tensor]:
    """All that the model holds: parameters, buffers, and the scales of quantized weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items() if torch.is_tensor(value)}


@pytest.fixture
def trained(tmp_path):
    """``trained("stage=dpo", ...)``: the phase as it was watched, and its run directory."""
    (tmp_path / "text.jsonl").write_text("".join(f'{{"text": "{n} is more than {n - 1}. " }}\n' for n in range(40)))
    # Rewards that differ, so that there is something to learn of whatever the policy writes.
    (tmp_path / "rewards.py").write_text(
        "def differs(completions, **_):\n    return [float(len(one) % 5 + i % 2) for i, one in enumerate(completions)]"
    )

    def run(stage: str, *overrides: str) -> tuple[Watched, RunDir]:
        more: tuple[str, ...] = OF_STAGE.get(stage, ())
        if stage == "pt":
            more = (f"data.path={tmp_path}/text.jsonl", "data.format=text")
        if stage in ("ppo", "grpo"):
            more = (*more, f"stage.rewards=[{tmp_path}/rewards.py:differs]")
        watched = Watched()
        run_dir = train_run(tmp_path / "run", f"stage={stage}", *SHORT, *more, *overrides, hooks=watched)
        return watched, run_dir

    return run


def expected(stage: str, method: str, names: set[str]) -> set[str]:
    """What has to change, and nothing else."""
    if method == "full":
        # A reward model's loss does not go through the head that writes tokens.
        return names - ({"lm_head.weight"} if stage == "rm" else set())
    if method == "freeze":
        last = {name for name in names if ".layers.2." in name or ".layers.3." in name}
        return last | ({"score.weight"} if stage == "rm" else set())
    adapter = {name for name in names if "lora_" in name}
    return adapter | {name for name in names if "score.modules_to_save." in name}


def reloaded(phase: Watched, final: Path) -> Any:
    """What a run left, read by transformers and PEFT alone."""
    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    is_adapter = (final / "adapter_config.json").is_file()
    in_bf16 = phase.config.hardware.precision == "bf16" and phase.config.method.name == "lora"
    options: dict[str, Any] = {"dtype": torch.bfloat16 if in_bf16 else torch.float32}
    if phase.config.quant.name != "none":
        options["quantization_config"] = load.load_model(phase.config).config.quantization_config
    if phase.config.stage.name == "rm":
        cls: Any = AutoPeftModelForSequenceClassification if is_adapter else AutoModelForSequenceClassification
        options["num_labels"] = 1
    else:
        cls = AutoPeftModelForCausalLM if is_adapter else AutoModelForCausalLM
    model = cls.from_pretrained(final, **options).eval()
    if phase.config.quant.name in ("nf4", "fp4"):
        load._keep_gradients(model)  # off the path that computes in bf16, which would hide a difference
    return model


def check(stage: str, method: str, phase: Watched, run_dir: RunDir) -> None:
    losses = metrics(run_dir, "loss")
    assert len(losses) == 3 and all(map(math.isfinite, losses))
    assert all(norm > 0 for norm in metrics(run_dir, "grad_norm"))
    assert phase.before.keys() == phase.after.keys()
    changed = {name for name, value in phase.before.items() if not torch.equal(value, phase.after[name])}
    assert changed == expected(stage, method, set(phase.before))

    from transformers import AutoTokenizer

    model = reloaded(phase, run_dir.final)
    tokenizer = AutoTokenizer.from_pretrained(run_dir.final)
    # accelerate has put a trained model's forward under autocast for good.
    in_bf16 = phase.config.hardware.precision == "bf16"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
        logits = model(input_ids=IDS).logits
        given = logits[:, 0] if stage == "rm" else logits
        close = 1e-2 if in_bf16 and stage == "rm" else 1e-4  # autocast takes transformers' head along, ours never
        torch.testing.assert_close(given.float(), phase.given.float(), atol=close, rtol=close)
        if stage == "rm":
            return
        prompt = "Once"
        if stage != "pt":
            prompt = Template.for_tokenizer(tokenizer, None).prompt([{"role": "user", "content": "Say the word red."}])
        asked = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        written = model.generate(**asked, max_new_tokens=8, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert 1 <= len(written) <= 8
    assert tokenizer.decode(written, skip_special_tokens=True).strip()


# Stages of each kind, of one loss, of pairs, of answers of its own; most tests of a stage are with lora anyhow.
FAST = {"full": ("sft", "rm", "ppo"), "freeze": ("pt", "orpo"), "qlora": ("dpo", "kto", "grpo"), "lora": ("sft",)}


@pytest.mark.parametrize(("stage", "method"), across(STAGES, METHODS, lambda stage, method: stage in FAST[method]))
def test_each_stage_with_each_method(stage, method, trained):
    phase, run_dir = trained(stage, f"method={method}")
    check(stage, method, phase, run_dir)


@pytest.mark.matrix
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_with_what_else_may_be_chosen(stage, variant, trained):
    method, *overrides = VARIANTS[variant]
    # After the choice of a method, which for qlora is one of quant too.
    phase, run_dir = trained(stage, f"method={method}", *overrides)
    check(stage, method, phase, run_dir)
