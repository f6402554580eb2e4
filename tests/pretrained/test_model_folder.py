"""The recipe and the folder that ``model.path`` gives: the folder's shape is the run's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from ftlab.config import model_folder
from ftlab.config.compose import config_loader
from ftlab.config.history import trace
from ftlab.errors import ConfigError, DataError, NotReadyError
from ftlab.preflight import check
from ftlab.preflight.remarks import remarks
from tests.conftest import ROOT
from tests.runs import BARE, make_run, train_run

TINY = ROOT / "models" / "tiny"


def folder_with(path: Path, **config: object) -> Path:
    """A folder whose config.json is the tiny model's with other values; None takes a key out."""
    path.mkdir(parents=True, exist_ok=True)
    values = {**json.loads((TINY / "config.json").read_text()), **config}
    (path / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return path


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        make_run(*overrides)
    (mistake,) = caught.value.mistakes
    return str(mistake)


def test_the_shape_is_the_folders_and_not_the_recipes(tmp_path):
    other = folder_with(tmp_path / "other", num_hidden_layers=2, max_position_embeddings=4096)
    run = make_run("model=llama3_8b", f"model.path={other}")
    shape = run.model.architecture
    assert (shape.layers, shape.hidden_size, shape.heads, shape.vocab_size, shape.max_positions) == (
        2, 128, 4, 2304, 4096,
    )  # fmt: skip
    assert (run.model.name, run.model.recipe, run.model.template) == ("other", "llama3_8b", "llama3")
    assert remarks(run) == [
        f"model.path={other}: llama, 2 layers of 128, 4 heads, 2,304 tokens, 4,096 positions, as its config.json says; "
        "model=llama3_8b has another shape, and its rates and lengths stay: model=local takes those from the folder too"
    ]


def test_what_training_changes_makes_no_other_model(tmp_path):
    """A few new tokens: the rows are the folder's, the name is the recipe's."""
    run = make_run(f"model.path={folder_with(tmp_path / 'grown', vocab_size=2310)}")
    assert (run.model.name, run.model.architecture.vocab_size) == ("tiny", 2310)
    assert make_run(f"model.path={folder_with(tmp_path / 'same')}").model.recipe is None
    assert remarks(make_run()) == []


def test_what_is_given_wins(tmp_path):
    other = folder_with(tmp_path / "other", num_hidden_layers=2)
    run = make_run(f"model.path={other}", "model.architecture.layers=3", "model.name=mine")
    assert (run.model.architecture.layers, run.model.name) == (3, "mine")


def test_another_family_is_refused_with_what_fits(tmp_path):
    other = folder_with(tmp_path / "other", model_type="qwen2", num_hidden_layers=28)
    assert refusal("model=llama3_8b", f"model.path={other}") == (
        f"model.path={other}: holds a model of the family qwen2 (its config.json), and model=llama3_8b is a recipe for "
        "llama. Use model=local, which takes everything from the folder, or a recipe of its family: "
        "deepseek_r1_distill_qwen_7b, qwen2_5_1_5b, qwen2_5_7b, qwen2_5_coder_7b, codeqwen_7b"
    )


def test_a_family_of_which_nobody_said_anything(tmp_path):
    """No choice was made, so there is none that it contradicts."""
    other = folder_with(tmp_path / "other", model_type="falcon", head_dim=None, num_key_value_heads=None)
    run = make_run(f"model.path={other}")
    shape = run.model.architecture
    assert (run.model.name, shape.family, shape.kv_heads, shape.gated_mlp) == ("other", "falcon", 4, False)
    assert remarks(run)[0].endswith("model=local takes those from the folder too")
    assert "is a recipe for llama" in refusal("model=tiny", f"model.path={other}")


def test_a_model_in_the_cache_of_the_hub(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--me--mine" / "snapshots" / "abc"
    folder_with(snapshot, num_hidden_layers=7)
    (tmp_path / "models--me--mine" / "refs").mkdir()
    (tmp_path / "models--me--mine" / "refs" / "main").write_text("abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    run = make_run("model=local", "model.path=me/mine")
    assert (run.model.architecture.layers, run.model.name) == (7, "mine")


# ------------------------------------------------------------------------------------------------------- model=local


@pytest.mark.parametrize(
    ("layers", "hidden", "lora_r", "micro", "max_length"),
    [(2, 128, 16, 8, 512), (32, 4096, 16, 4, 512), (40, 5120, 32, 2, 512), (60, 7168, 32, 1, 512),
     (80, 8192, 64, 1, 512)],
)  # fmt: skip
def test_local_takes_everything_from_the_folder(tmp_path, layers, hidden, lora_r, micro, max_length):
    """Rank and batch as for the recipes of that size; the length as far as the positions go."""
    sizes = {"intermediate_size": 3 * hidden, "vocab_size": 32000, "max_position_embeddings": 512, "head_dim": None}
    folder = folder_with(tmp_path / "my model", num_hidden_layers=layers, hidden_size=hidden, **sizes)
    run = make_run("model=local", f"model.path='{folder}'")
    assert (run.lora.r, run.train.micro_batch_size, run.data.max_length) == (lora_r, micro, max_length)
    assert (run.model.name, run.model.template, run.model.adapter) == ("my-model", None, None)
    assert run.model.architecture.head_dim == hidden // 4
    assert make_run("model=local", f"model.path='{folder}'", "lora.r=5", "data.max_length=64").lora.r == 5


@pytest.mark.matrix
def test_sizes_are_those_of_the_shipped_recipes():
    """Every recipe takes the file that model=local would take for its number of parameters."""
    from types import SimpleNamespace

    from ftlab.pretrained import shape

    for file in sorted((ROOT / "conf" / "model").glob("[!_]*.yaml")):
        values = yaml.safe_load(file.read_text())
        if "architecture" in values and values["architecture"].get("layers"):
            architecture = make_run(f"model={file.stem}", "data.max_length=64", "data.overlap=0").model.architecture
            count = shape.parameter_count(SimpleNamespace(**architecture.model_dump()))
            assert model_folder.size_file(count) == values["defaults"][0], file.stem


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "model.path: model=local is any model of a folder: give it, as model.path=FOLDER, or the id of a model"),
        (("model.path=no/such",), "model.path=no/such: is neither a folder on this machine nor in the hub's cache"),
        (("model.path=/no/such",), "model.path=/no/such: does not exist"),
        ((f"model.path={ROOT}/tests",), "has no config.json; it must be a folder in Hugging Face format"),
        ((f"model.path={TINY}/model.safetensors",),
         f"is a file of weights; give the folder that it is in: model.path={TINY}"),
        ((f"model.path={ROOT}/models/tiny_instruct",),
         f"is an adapter, not a whole model. Give model.path=models/tiny and model.adapter={ROOT}/models/tiny_instr"),
        ((f"model.path={ROOT}/models",), f"Did you mean model.path={TINY}?"),
    ],
)  # fmt: skip
def test_local_without_a_model(given, said):
    assert said in refusal("model=local", *given)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"model_type": "roberta"}, "model_type=roberta is an encoder, which reads a text in both directions; models"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "model_type=t5 is an encoder and a decoder; models here"),
        ({"model_type": "electra", "is_decoder": False}, "model_type=electra is an encoder"),
    ],
)
def test_what_is_no_decoder_is_refused(tmp_path, sizes, said):
    assert said in refusal("model=local", f"model.path={folder_with(tmp_path, **sizes)}")


def test_a_size_that_the_folder_does_not_say_can_be_given(tmp_path):
    folder = folder_with(tmp_path, vocab_size=None)
    told = refusal("model=local", f"model.path={folder}")
    assert told.endswith("has no vocab_size or padded_vocab_size; give it with model.architecture.vocab_size=N.")
    run = make_run("model=local", f"model.path={folder}", "model.architecture.vocab_size=2304")
    assert run.model.architecture.vocab_size == 2304


def test_explain_names_the_folder(tmp_path):
    folder = folder_with(tmp_path, num_hidden_layers=2)
    given = ["model=llama3_8b", f"model.path={folder}"]
    found = trace("model.architecture.layers", given, config_loader(), "config")
    assert found.value == 2
    assert [setting.value for setting in found.settings] == [32, 2]
    assert found.settings[-1].source == f"the model's folder, {folder}"


def test_local_trains_and_is_continued_by_another_run(tmp_path):
    """The shape and the name stand in run.yaml, and a phase that starts from the run has them too."""
    folder = tmp_path / "mine"
    shutil.copytree(TINY, folder)
    short = ("train.max_steps=1", "data.max_samples=8", "data.max_length=128", "train.micro_batch_size=2")
    run_dir = train_run(tmp_path / "run", "model=local", f"model.path={folder}", *short, *BARE)
    model = run_dir.plan().phases[0].config.model
    assert (model.name, model.recipe, model.architecture.layers) == ("mine", "local", 4)
    assert "mine: " in run_dir.log.read_text() and "as its config.json says" in run_dir.log.read_text()
    after = make_run(f"phases=[{{name: more, stage: sft, from: {run_dir.path}}}]", *short)
    assert after.phases[0].config["model"]["name"] == "mine"
    assert after.phases[0].config["model"]["path"] == str(folder)


@pytest.mark.parametrize("name", ["run", "run/final", "run/run.yaml"])
def test_a_run_in_place_of_a_model(tmp_path, monkeypatch, name):
    """A run directory, its adapter, a file in it: what to give instead, and with that it starts."""
    monkeypatch.chdir(tmp_path)
    final = tmp_path / "run" / "final"
    shutil.copytree(ROOT / "models" / "tiny_instruct", final)
    (tmp_path / "run" / "run.yaml").touch()
    with pytest.raises(NotReadyError) as caught:
        check.check(make_run(f"model.path={name}"))
    said = str(caught.value)
    if name == "run/run.yaml":
        assert "model.path=run/run.yaml is a file; give the folder that it is in: model.path=run" in said
        return
    assert "Give model.path=models/tiny and model.adapter=run/final" in said
    monkeypatch.chdir(ROOT)
    check.check(make_run("model.path=models/tiny", f"model.adapter={final}"))


# ------------------------------------------------------------------------------- what a choice brings for its own path


def test_a_choices_adapter_does_not_outlive_another_path(tmp_path):
    shipped = str(ROOT / "models" / "tiny_instruct")
    assert make_run("stage=dpo", "data=preferences").model.adapter == shipped
    assert make_run("stage=dpo", f"model.path={folder_with(tmp_path)}").model.adapter is None
    assert make_run("stage=dpo", f"model.path={TINY}/../tiny").model.adapter == shipped
    given = make_run("stage=dpo", f"model.path={folder_with(tmp_path)}", "model.adapter=/mine")
    assert given.model.adapter == "/mine"


# ------------------------------------------------------------------------------------------------------------ lengths

GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 256, "vocab_size": 2304}


def test_learned_positions_end(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    local = ("model=local", f"model.path={tmp_path}")
    assert make_run(*local).data.max_length == 256
    assert make_run(*local).model.architecture.position_embeddings == 256
    said = f"data.max_length=1024: model={tmp_path.name} has learned 256 positions and can compute no more; set "
    assert refusal(*local, "data.max_length=1024") == f"{said}data.max_length to that or less"


def test_computed_positions_go_on_and_that_is_said():
    (line,) = remarks(make_run("data.max_length=4096"))
    assert line.startswith("data.max_length=4096 is more than the 2,048 positions that tiny was trained with.")


@pytest.mark.parametrize("stop", ["data.split.golden=none eval.samples=0", "eval.max_new_tokens=8"])
def test_a_golden_prompt_that_does_not_fit_is_told_before_data_is_prepared(tmp_path, stop):
    """A prompt of some fifty tokens, and 256 positions: with 240 new ones it cannot be answered, with 8 it can."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

    folder = tmp_path / "gpt2"
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    config = GPT2Config(
        n_layer=1, n_embd=32, n_head=2, n_positions=256, vocab_size=2304, eos_token_id=1, bos_token_id=1
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    short = ("train.max_steps=1", "data.max_samples=8", "data.split.validation=none", "tracker=none", "lora.dropout=0")
    given = ("model=local", f"model.path={folder}", *short, "eval.golden_rows=2", "eval.max_new_tokens=240")
    with pytest.raises(DataError) as caught:
        train_run(tmp_path / "run", *given)
    assert "golden.jsonl:1: this golden prompt has" in str(caught.value)
    assert "with eval.max_new_tokens=240 that is more than the 256 positions of gpt2." in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert train_run(tmp_path / "other", *given, *stop.split()).final.is_dir()
