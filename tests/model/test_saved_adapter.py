"""Starting from a saved adapter: what cannot work is said before torch is loaded; what is asked for is what trains."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ftlab.errors import ConfigError, NotReadyError
from ftlab.planning import make_plan
from ftlab.preflight import check
from ftlab.schema import StageName
from tests.conftest import ROOT
from tests.runs import create_run, make_run, train_run

TINY, INSTRUCT = ROOT / "models" / "tiny", ROOT / "models" / "tiny_instruct"
SHORT = (
    "model=tiny_instruct", "train.max_steps=1", "data.max_samples=8", "data.split.validation=none",
    "data.split.golden=none", "eval.samples=0", "eval.golden_rows=0", "tracker=none",
)  # fmt: skip
HAS = "{} has {} {}, and is trained on as it is. Leave lora.{} out, or {}, or merge the adapter with method=full"
ANEW = "begin a new one with model.adapter=null"
ALL = "[down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj]"


@pytest.fixture
def adapter(tmp_path):
    """``adapter(r=8)``: the shipped adapter, with another adapter_config.json."""

    def make(**changes: object) -> Path:
        shutil.copytree(INSTRUCT, tmp_path / "adapter")
        file = tmp_path / "adapter" / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return tmp_path / "adapter"

    return make


def refused(line: str) -> list[str]:
    """The lines that say why a command cannot start; none if it can."""
    given = shlex.split(line)
    try:
        check.check_plan(make_plan(make_run(*given), given))
    except NotReadyError as error:
        return [text.removeprefix("  - ") for text in str(error).splitlines()[1:]]
    return []


def test_what_nobody_chose_is_not_refused():
    """Of every stage; and with each other method of one that has an adapter, and of one that has none."""
    lines = [f"stage={stage}" for stage in StageName.__args__]
    others = ("lora=r16", "lora=loraplus", "method=qlora", "method=freeze")
    lines += [f"stage={stage} {more}" for stage in ("sft", "dpo", "ppo") for more in others]
    assert {line: said for line in lines if (said := refused(line))} == {}
    assert {make_run(f"stage={stage}").model.adapter for stage in ("dpo", "ppo")} == {str(INSTRUCT)}


@pytest.mark.parametrize(
    ("line", "wants"),
    [
        ("lora.r=8", {"r=8": 16}),
        ("lora=r8", {"r=8": 16, "alpha=16": 32}),
        ("lora=dora", {"variant=dora": "lora"}),
        ("lora=rslora", {"variant=rslora": "lora"}),
        ("lora=pissa lora.alpha=7", {"alpha=7": 32, "variant=pissa": "lora"}),
        ("lora.target_modules=[v_proj,q_proj]", {"target_modules=[q_proj, v_proj]": ALL}),
        ("lora.dropout=0.3 lora.target_modules=default", {}),
        (f"lora.target_modules='{ALL}'", {}),
        ("lora.r=8 model.adapter=null", {}),
        ("lora.r=8 method=full", {}),
    ],
)
def test_what_the_adapter_does_not_have(line, wants):
    found = refused(f"stage=dpo {line}")
    assert found == [
        f"lora.{wanted}: {HAS.format(f'model.adapter={INSTRUCT}', key, has, key, ANEW)}"
        for wanted, has in wants.items()
        for key in [wanted.partition("=")[0]]
    ]


def test_a_recommendation_is_no_choice_but_the_same_number_typed_is_one(adapter):
    """16 and 32 are what the model's size recommends."""
    folder = adapter(r=64, lora_alpha=128, use_dora=True)
    assert refused(f"stage=dpo model.adapter={folder}") == []
    assert refused(f"stage=dpo model.adapter={folder} lora.r=64 lora=dora") == []
    (rank,) = refused(f"stage=dpo model.adapter={folder} lora.r=16")
    assert rank.startswith(f"lora.r=16: model.adapter={folder} has r 64, ")
    (variant,) = refused(f"stage=dpo model.adapter={folder} lora.variant=lora")
    assert variant.startswith(f"lora.variant=lora: model.adapter={folder} has variant dora, ")


def test_a_reward_model_is_no_policy(adapter):
    folder = adapter(task_type="SEQ_CLS")
    for stage in ("dpo", "sft", "grpo"):
        for method in ("lora", "full"):
            (said,) = refused(f"stage={stage} method={method} model.adapter={folder}")
            assert said.startswith(
                f"model.adapter={folder} is the adapter of a reward model (task_type SEQ_CLS), which "
            )
            assert f"no policy for stage={stage} to start from" in said and "stage.reward_model" in said
    assert refused(f"stage=rm model.adapter={folder}") == []


def test_a_reward_model_that_was_saved_whole_is_no_policy(tmp_path):
    """Its config.json is that of a language model, and transformers would read it as one without a word."""
    run_dir = train_run(tmp_path / "run", "stage=rm", "method=full", *SHORT)
    whole = run_dir.final.resolve()
    for stage in ("dpo", "sft", "rm"):
        assert refused(f"stage={stage} model.adapter=null model.path={whole}") == [
            f"model.path={whole} is a reward model: it has a score.weight. stage={stage} starts from a language model; "
            "a reward model goes into stage.reward_model of stage=ppo, or stage.rewards=[model:RUN] of stage=grpo"
        ]


@pytest.mark.parametrize(
    ("changes", "line", "said"),
    [
        ({"init_lora_weights": "pissa"}, "method=qlora",
         "is a PiSSA adapter, which belongs to what is left of the unquantized weights; quant=nf4 cannot have it. "
         "Use quant=none"),
        ({"use_dora": True}, "quant=int8",
         "is a DoRA adapter, which cannot read the scales of int8 weights; use quant=nf4"),
        ({"peft_type": "IA3"}, "",
         "is of PEFT's kind IA3, and method=lora trains LORA alone; merge it with method=full"),
        ({}, "model.init=random", f"was trained on weights that model.init=random does not load; {ANEW}"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_go_with_the_rest(changes, line, said, adapter):
    folder = adapter(**changes)
    assert refused(f"stage=dpo model.adapter={folder} {line}") == [f"model.adapter={folder} {said}"]


def test_an_adapter_that_is_not_there(adapter, tmp_path):
    assert refused(f"model.adapter={tmp_path}/none") == [f"model.adapter={tmp_path}/none does not exist"]
    (said,) = refused("model.adapter=not/an/id")
    assert said == "model.adapter=not/an/id is neither a folder nor the id of a model on the hub (owner/name)"
    assert refused(f"model.adapter={TINY}") == [
        f"model.adapter={TINY} has no adapter_config.json; a whole model goes into model.path"
    ]
    adapter().rename(tmp_path / "final")
    assert refused(f"model.adapter={tmp_path}") == [
        f"model.adapter={tmp_path} has no adapter_config.json; of a run directory give the final adapter, "
        f"{tmp_path}/final"
    ]
    (tmp_path / "final" / "adapter_config.json").write_text("{")
    (said,) = refused(f"model.adapter={tmp_path}/final")
    assert said.startswith(f"model.adapter={tmp_path}/final: {tmp_path}/final/adapter_config.json is no JSON, or only ")


def test_a_reference_model_that_is_not_there(tmp_path):
    assert refused(f"stage=dpo stage.reference_model={INSTRUCT}") == []
    (said,) = refused(f"stage=dpo stage.reference_model={tmp_path}/none")
    assert said == f"stage.reference_model={tmp_path}/none does not exist"
    (said,) = refused(f"stage=dpo stage.reference_model={tmp_path}")
    assert said.startswith(f"stage.reference_model={tmp_path} has neither config.json nor adapter_config.json; ")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5775920\n"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
DAMAGE = {
    "pointer": (WEIGHTS, lambda _: POINTER, f"/{WEIGHTS} is a pointer of Git LFS, not the file itself"),
    "half": (WEIGHTS, lambda data: data[: len(data) // 2], f"/{WEIGHTS} is cut short: "),
    "header": (WEIGHTS, lambda data: data[:500], f"/{WEIGHTS} is no safetensors file, or only the beginning of one"),
    "garbage": (WEIGHTS, lambda _: b"x" * 900, f"/{WEIGHTS} is no safetensors file"),
    "empty": (WEIGHTS, lambda _: b"", f"/{WEIGHTS} is empty."),
    "gone": (WEIGHTS, None, f" has no weights ({WEIGHTS})"),
    "list": (CONFIG, lambda _: b"[1]", f"/{CONFIG} must be a JSON object, {{...}}, and is a list"),
    "deep": (CONFIG, lambda _: b"[" * 100_000, f"/{CONFIG} is no JSON, or only a part of it (nested too deep)"),
    "kind": (CONFIG, lambda _: b"{}", f"/{CONFIG}: peft_type=None must be the kind of adapter"),
    "rank": (CONFIG, lambda data: data.replace(b'"r": 16', b'"r": "x"'), f"/{CONFIG}: r='x' must be a whole number"),
    "alpha": (CONFIG, lambda data: data.replace(b'"lora_alpha": 32', b'"lora_alpha": null'), "lora_alpha=None must be"),
    "targets": (CONFIG, lambda _: b'{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": 7}',
                "target_modules=7 must be a name, or a list of them"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_adapter_is_told_before_anything_is_loaded(name, adapter):
    """In the policy's place and in the reference's; and a damaged model in the reference's."""
    file, damage, said = DAMAGE[name]
    folder = adapter()
    path = folder / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    for key in ("model.adapter", "stage.reference_model"):
        (told,) = refused(f"stage=dpo {key}={folder}")
        assert told.startswith(f"{key}={folder}: {folder}") and said in told
    model = folder.with_name("model")
    shutil.copytree(TINY, model)
    if file == WEIGHTS and damage is not None:
        (model / "model.safetensors").write_bytes(damage((model / "model.safetensors").read_bytes()))
        (told,) = refused(f"stage=dpo stage.reference_model={model}")
        assert told.startswith(f"stage.reference_model={model}: {model}/model.safetensors is ")


def test_a_phase_of_a_curriculum_is_compared_with_what_it_starts_from(tmp_path):
    """The first with the adapter; the others with the phase before, or with the run that they come from."""
    (said,) = refused("phase=align model=tiny_instruct lora.r=8")
    assert said.startswith(f"lora.r=8: model.adapter={INSTRUCT} has r 16, ")
    line = "phase=align model=tiny_instruct phases.prefer.lora.r=8 phases.prefer.start=merge"
    assert refused(line) == []
    run_dir = create_run(make_plan(make_run("model=tiny", f"run.dir={tmp_path}/run"), ()))
    shutil.copytree(INSTRUCT, run_dir.phase("01-sft") / "final")
    phases = f"{{name: a, stage: sft}}, {{name: b, stage: dpo, from: {tmp_path}/run, lora: {{r: 8}}}}"
    with pytest.raises(
        ConfigError, match=r"phases\.b\.lora\.r=8: but the adapter that is carried on from .*/run has 16"
    ):
        refused(f"model=tiny 'phases=[{phases}]'")


def test_nothing_heavy_is_loaded_to_say_so(tmp_path):
    """The real command, in a process of its own."""
    code = (
        "import sys; from ftlab.main import main; sys.argv = ['ftlab', 'stage=dpo', 'lora.r=8', "
        f"'run.dir={tmp_path}/run']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 1\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "lora.r=8: model.adapter=" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------- what shows with the model


def test_the_dropout_of_the_config_is_that_of_the_adapter(adapter, tmp_path):
    import torch

    from ftlab.model.adapter import apply_method
    from ftlab.model.load import load_model

    run = make_run("stage=sft", *SHORT, "lora.dropout=0.3")
    model = apply_method(load_model(run), run)
    found = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert found == {0.3}
    run_dir = train_run(tmp_path / "run", "stage=sft", *SHORT, "lora.dropout=0.3")
    saved = json.loads((run_dir.final / "adapter_config.json").read_text())
    assert (saved["lora_dropout"], saved["r"], saved["lora_alpha"]) == (0.3, 16, 32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("narrow", "cannot be loaded onto this model: size mismatch for base_model.model.model.layers."),
        ("deep", "is of another model: it has base_model.model.model.layers.9."),
        ("shallow", "is cut short or of another model: it has no base_model.model.model.layers.3."),
        ("other", "cannot be loaded onto this model: Target modules {'c_attn'} not found"),
    ],
)
def test_an_adapter_of_another_model(change, said, adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = adapter(**({"target_modules": ["c_attn"]} if change == "other" else {}))
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    if change == "narrow":
        tensors = {name: tensor[:, :8].contiguous() for name, tensor in tensors.items()}
    elif change == "deep":
        tensors |= {name.replace(".3.", ".9."): tensor.clone() for name, tensor in tensors.items()}
    elif change == "shallow":
        tensors = {name: tensor for name, tensor in tensors.items() if ".layers.3." not in name}
    save_file(tensors, file)
    with pytest.raises(NotReadyError) as caught:
        train_run(tmp_path / "run", "stage=sft", *SHORT, f"model.adapter={folder}")
    assert str(caught.value).startswith(f"model.adapter={folder} {said}")
    assert "\n" not in str(caught.value)


def without_one(folder: Path) -> str:
    """Take the last tensor out of an adapter's file. Returns its name."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    name = max(tensors)
    del tensors[name]
    save_file(tensors, folder / WEIGHTS)
    return name


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_adapter_that_lacks_a_tensor_is_refused_wherever_it_is_loaded(method, adapter):
    """In the policy's place, to be trained on and to be merged, and in the reference's."""
    from ftlab.model.adapter import apply_method
    from ftlab.model.load import load_model, load_reference

    folder = adapter()
    name = without_one(folder)
    run = make_run("stage=dpo", f"method={method}", f"model.adapter={folder}")
    said = f"={folder} is cut short or of another model: it has no {name}, and there would be random numbers."
    with pytest.raises(NotReadyError) as policy:
        apply_method(load_model(run), run)
    assert str(policy.value).startswith(f"model.adapter{said}")
    with pytest.raises(NotReadyError) as reference:
        load_reference(run, str(folder))
    assert str(reference.value).startswith(f"stage.reference_model{said}")


def test_a_phase_that_merges_an_adapter_that_lacks_a_tensor_is_refused(tmp_path):
    run_dir = train_run(tmp_path / "first", "stage=sft", *SHORT)
    name = without_one(run_dir.final)
    phases = f"phases=[{{name: next, stage: sft, from: {run_dir.path}, start: merge}}]"
    with pytest.raises(NotReadyError, match=f"is cut short or of another model: it has no {name}, "):
        train_run(tmp_path / "next", *SHORT, phases)
    assert not list((tmp_path / "next" / "phases").rglob("*.safetensors"))


def test_trained_rows_of_new_tokens_are_part_of_an_adapter(adapter):
    """What lies beside the matrices counts too."""
    from peft import LoraConfig, get_peft_model, load_peft_weights
    from safetensors.torch import save_file

    from ftlab.model.adapter import apply_method
    from ftlab.model.load import load_model

    folder = adapter()
    run = make_run("stage=sft", "model=tiny", f"model.adapter={folder}")
    config = LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5]})
    get_peft_model(load_model(run), config).save_pretrained(folder)
    apply_method(load_model(run), run)
    tensors = load_peft_weights(str(folder), device="cpu")
    (rows,) = (name for name in tensors if "lora_" not in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != rows}, folder / WEIGHTS)
    with pytest.raises(NotReadyError) as caught:
        apply_method(load_model(run), run)
    assert f"it has no {rows}, " in str(caught.value)
