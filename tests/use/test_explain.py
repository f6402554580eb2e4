"""``ftlab explain KEY``: the value, what set it, and what that overrode."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from ftlab.config import command_line
from ftlab.config.compose import read, select_loader
from ftlab.errors import ConfigError
from ftlab.use.explain import explain

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture
def explained(capsys):
    """The lines that ``ftlab explain ...`` prints."""

    def run(*argv: str) -> list[str]:
        given = command_line.read(["explain", *argv])
        explain(read(given.overrides, *select_loader(given.config_dir, given.config_name)), ["explain", *argv])
        return capsys.readouterr().out.splitlines()

    return run


def test_a_recommendation_of_the_model(explained):
    assert explained("lora.r", "model=llama2_13b") == [
        "lora.r = 32",
        "  takes     integer > 0",
        "  rank of the adapters",
        "  set by    conf/lora/default.yaml:2  (lora=default): ${model.recommended.lora.r}",
        "    model.recommended.lora.r = 32",
        "      set by    conf/model/_13b.yaml:6: 32",
    ]


def test_a_choice_over_the_recommendation(explained):
    assert explained("lora.r", "model=llama2_13b", "lora=r64") == [
        "lora.r = 64",
        "  takes     integer > 0",
        "  rank of the adapters",
        "  set by    conf/lora/r64.yaml:5  (lora=r64): 64",
        "  overrode  conf/lora/default.yaml:2  (lora=default): ${model.recommended.lora.r}",
    ]


def test_the_command_line_over_both(explained):
    assert explained("lora.r", "lora.r=24", "lora=r64") == [
        "lora.r = 24",
        "  takes     integer > 0",
        "  rank of the adapters",
        "  set by    command line: 24",
        "  overrode  conf/lora/r64.yaml:5  (lora=r64): 64",
        "  overrode  conf/lora/default.yaml:2  (lora=default): ${model.recommended.lora.r}",
    ]


def test_a_rate_that_the_model_looks_up_by_stage(explained):
    lines = explained("train.learning_rate")
    assert [re.sub(r":\d+", ":N", line) for line in lines] == [
        "train.learning_rate = 0.001",
        "  takes     number > 0",
        "  at its peak; a model may have its own",
        "  set by    conf/stage/sft.yaml:N  (stage=sft): ${oc.select:model.recommended.learning_rate.sft,2.0e-5}",
        "    model.recommended.learning_rate.sft = 0.001",
        "      set by    conf/model/tiny.yaml:N  (model=tiny): 0.001",
    ]


def test_a_rate_that_the_model_leaves_to_the_stage(explained):
    lines = explained("train.learning_rate", "model=llama2_7b")
    assert [re.sub(r":\d+", ":N", line) for line in lines] == [
        "train.learning_rate = 2e-05",
        "  takes     number > 0",
        "  at its peak; a model may have its own",
        "  set by    conf/stage/sft.yaml:N  (stage=sft): ${oc.select:model.recommended.learning_rate.sft,2.0e-5}",
    ]


def test_a_preset_may_change_what_is_not_typed(explained):
    line = "  hardware=h100 may change it for a run that would not fit (hardware.fits_by): ftlab plan says whether"
    assert explained("train.optimizer", "hardware=h100")[-1] == line
    for typed in (["hardware=h100", "train.optimizer=sgd"], ["hardware=auto"]):
        assert line not in explained("train.optimizer", *typed)


def test_the_comment_beside_a_key_is_shown(explained):
    first, _, about, _ = explained("run.dir")
    assert first == "run.dir = null"
    assert f"# {about.strip()}\n" in (CONF / "config.yaml").read_text()
    assert explained("data.overlap")[:3] == [
        "data.overlap = 0", "  takes     integer >= 0", "  tokens that consecutive chunks of one long text share",
    ]  # fmt: skip
    whole = explained("train.fp8")[2]  # over three lines of the file
    assert whole.startswith("  products of the decoder") and whole.endswith("but for the gradients of weights")


def test_an_experiment_of_the_users_own(explained, tmp_path):
    file = tmp_path / "own" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\ntrain:\n  # found by hand\n  epochs: 7                # enough\n")
    first, _, comment, ours, shipped = explained(
        "train.epochs", "--config-dir", str(tmp_path / "own"), "experiment=mine"
    )
    assert (first, comment) == ("train.epochs = 7", "  enough")
    assert ours == "  set by    own/experiment/mine.yaml:4  (experiment=mine): 7"
    assert re.fullmatch(r"  overrode  conf/config\.yaml:\d+: \$\{model\.recommended\.epochs\}", shipped)


@pytest.mark.parametrize(
    ("key", "overrides"),
    [
        ("lora.r", ["lora=r64", "model=llama2_13b"]),
        ("train.learning_rate", ["stage=dpo"]),
        ("data.max_length", ["data=phase1_foundation", "model=kat_dev_32b"]),
        ("data.split.golden", []),
        ("model.architecture.qk_norm", ["model=qwen3_8b"]),
        ("train.epochs", []),
        ("stage.beta", ["stage=orpo"]),
        ("method.name", ["method=qlora"]),
        ("quant.name", ["method=qlora"]),
        ("phases", ["phase=codebase", "model=kat_dev_32b"]),
    ],
)
def test_the_line_that_is_named_holds_the_key(key, overrides, explained):
    """Open the file at the line: the key is there, and its value is the one that was printed."""
    lines = explained(key, *overrides)
    places = [re.search(r"(set by|overrode)\s+conf/(\S+\.yaml):(\d+)", line) for line in lines]
    found = [(place.group(2), int(place.group(3))) for place in places if place]
    assert found
    for file, number in found:
        text = (CONF / file).read_text().splitlines()[number - 1]
        last = key.split(".")[-1]
        assert re.search(rf"\b({last}|sft|dpo|max_length)\s*:", text), f"{file}:{number} is {text!r}"


def test_what_is_printed_is_what_the_run_gets(explained, make_run):
    """The first line agrees with the composed config, whether a number, a word or null."""
    dumped = make_run("stage=dpo", "lora=r8").model_dump(mode="json")
    for key in ("lora.alpha", "stage.loss_type", "run.name"):
        value = dumped
        for part in key.split("."):
            value = value[part]
        name, _, shown = explained(key, "stage=dpo", "lora=r8")[0].partition(" = ")
        assert (name, yaml.safe_load(shown)) == (key, value)


ALIGN = "phase=align"


@pytest.mark.matrix
def test_a_phases_key_that_groups_set(explained):
    lines = explained("phases.prefer.train.learning_rate", ALIGN)
    assert [re.sub(r":\d+", ":N", line) for line in lines] == [
        "phases.prefer.train.learning_rate = 5e-05",
        "  takes     number > 0",
        "  at its peak; a model may have its own",
        "  set by    conf/stage/dpo.yaml:N  (stage=dpo): ${oc.select:model.recommended.learning_rate.dpo,5.0e-7}",
        "    model.recommended.learning_rate.dpo = 5e-05",
        "      set by    conf/model/tiny.yaml:N  (model=tiny): 5e-05",
    ]
    assert explained("phases.2.stage.beta", ALIGN)[0] == "phases.2.stage.beta = 0.1"


def test_a_phases_key_on_the_command_line_over_its_groups(explained):
    lines = explained("phases.prefer.stage.beta", ALIGN, "phases.prefer.stage.beta=0.3", "phases.2.stage.beta=0.2")
    assert [re.sub(r":\d+", ":N", line) for line in lines] == [
        "phases.prefer.stage.beta = 0.2",
        "  takes     number > 0",
        "  how strongly the policy is held to the reference; lower lets it go further",
        "  set by    command line: 0.2",
        "  overrode  command line: 0.3",
        "  overrode  conf/stage/dpo.yaml:N  (stage=dpo): 0.1",
    ]


@pytest.mark.matrix
def test_a_phases_entry_is_named_by_its_line(explained):
    text = (CONF / "phase" / "codebase.yaml").read_text().splitlines()
    given = ("phase=codebase", "data.max_length=512", "data.overlap=32", "phases.foundation.deepspeed=none")
    for key, said in (("train.epochs", "epochs: 2"), ("lora.r", "r: 128")):
        first, _, _, set_by, *_ = explained(f"phases.evolution.{key}", *given)
        assert first == f"phases.evolution.{key} = {said.split()[1]}"
        line = int(re.match(r"  set by    conf/phase/codebase\.yaml:(\d+): ", set_by)[1])
        assert said in text[line - 1]
    assert explained("phases.0.data.max_length", *given)[:4] == [
        "phases.0.data.max_length = 512", "  takes     integer >= 8", "  tokens of one sample, and of a packed row",
        "  set by    command line: 512",
    ]  # fmt: skip


@pytest.mark.matrix
def test_what_a_phase_takes_from_the_one_before(explained):
    entries = "phases=[{name: a, stage: sft, model.template: chatml}, {name: b, stage: sft}]"
    first, _, _, set_by, _ = explained("phases.b.model.template", entries)
    assert (first, set_by) == ("phases.b.model.template = chatml", "  set by    a, which it starts from: chatml")
    assert explained("phases.b.from", entries) == ["phases.b.from = a"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["phases.prefr.stage.beta", ALIGN],
         "phases.prefr: no such phase. Phases: 0 read, 1 instruct, 2 prefer. Did you mean prefer?"),
        (["phases.prefer.stage.bta", ALIGN], "phases.prefer.stage.bta: no such key. --cfg job shows them all. Did you "
         "mean phases.prefer.stage.beta"),
        (["phases.prefer", ALIGN], "phases.prefer: which of its keys? For example: phases.prefer.train.learning_rate"),
        (["train.lerning_rate"], "train.lerning_rate: no such key. --cfg job shows them all. Did you mean "
         "train.learning_rate"),
        (["stage.bta", "stage=dpo"], "stage.bta: no such key. --cfg job shows them all. Did you mean stage.beta"),
        (["learning_rate"], "Did you mean "),
        ([], "which key? For example: ftlab explain train.learning_rate"),
    ],
)  # fmt: skip
def test_an_unknown_key_and_none(argv, said, explained):
    with pytest.raises(ConfigError) as caught:
        explained(*argv)
    assert said in str(caught.value)
    assert len(caught.value.mistakes) == 1


def test_a_key_named_without_its_group_is_found(explained):
    with pytest.raises(ConfigError, match=r"train\.learning_rate"):
        explained("learning_rate")


def test_a_group_lists_its_choices_and_its_keys(explained):
    lines = explained("stage", "stage=dpo", "stage.beta=0.3")
    assert lines[:2] == ["stage=NAME chooses one of (* by default)", "  dpo  grpo  kto  orpo  ppo  pt  rm  sft*"]
    assert "Keys of stage (dpo); ftlab explain KEY says more of each" in lines
    assert "  stage.beta = 0.3: how strongly the policy is held to the reference; lower lets" in lines
    keys = [line.split()[0] for line in lines if line.startswith("  stage.")]
    assert keys[:2] == ["stage.beta", "stage.loss_type"] and "stage.margin" not in keys
    assert max(map(len, lines)) <= 80


def test_the_users_own_choices_are_among_those_of_a_group(explained, tmp_path, monkeypatch):
    file = tmp_path / "conf" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\ndata:\n  registry: sets.yaml\n")
    (tmp_path / "sets.yaml").write_text("letters: {file_name: letters.jsonl}\n")
    monkeypatch.chdir(tmp_path)
    lines = explained("experiment", "--config-dir=conf")
    assert lines[1].split() == ["mine", "pilot", "tiny_base", "tiny_instruct"]
    assert [line for line in explained("experiment") if "mine" in line] == ["  with --config-dir=conf also mine"]
    for registry in (["data.registry=sets.yaml"], ["--config-dir=conf", "experiment=mine"]):
        listed = " ".join(explained("data", *registry)).partition("Keys of data")[0].split()
        assert "letters" in listed and "registered" not in listed, registry
    assert "letters" not in " ".join(explained("data")).split()


@pytest.mark.parametrize("group", ["train", "run", "eval", "lora.", "tracker"])
def test_every_part_of_the_config_can_be_explained(group, explained):
    name = group.removesuffix(".")
    page = (CONF.parent / "docs" / "reference.md").read_text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    there = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    assert there or group == "tracker"
    listed = [line.split()[0].rstrip(":") for line in explained(group) if line.startswith(f"  {name}.")]
    assert listed == there or (group == "tracker" and "tracker.project" in listed)


def test_a_key_at_the_top_is_a_key(explained):
    assert explained("seed")[:2] == ["seed = 42", "  takes     integer >= 0, < 4294967296"]


def test_as_json_a_key_has_its_value_and_where_it_is_from(explained):
    said = json.loads("\n".join(explained("lora.r", "model=llama2_13b", "format=json")))
    assert (said["key"], said["value"], said["takes"]) == ("lora.r", 32, "integer > 0")
    assert said["meaning"] == "rank of the adapters"
    [setting] = said["settings"]
    assert setting["source"].startswith("conf/lora/default.yaml:") and setting["choice"] == "lora=default"
    [source] = said["taken_from"]
    assert (source["key"], source["value"]) == ("model.recommended.lora.r", 32)


def test_as_json_a_group_has_its_choices_and_keys(explained):
    said = json.loads("\n".join(explained("method", "method=freeze", "format=json")))
    assert said["choices"] == ["freeze", "full", "lora", "qlora"]
    assert said["chosen"] == "freeze"
    assert {one["key"]: one["value"] for one in said["keys"]}["method.trainable_layers"] == 2
