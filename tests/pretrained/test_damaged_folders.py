"""Damaged model folders: one refusal each, with the file and what to do, before torch wherever files can tell."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ftlab.errors import ConfigError, NotReadyError
from ftlab.preflight import check
from tests.conftest import ROOT
from tests.runs import BARE, make_run, train_run

TINY = ROOT / "models" / "tiny"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5775920\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def refusal(folder: Path, *overrides: str) -> str:
    """The one line that says why a run cannot start."""
    with pytest.raises((NotReadyError, ConfigError)) as caught:
        check.check(make_run(f"model.path={folder}", *overrides))
    head, *lines = str(caught.value).splitlines()
    assert head == "This run cannot start here:" and len(lines) == 1, caught.value
    return lines[0].removeprefix("  - ")


def set_key(file: str, key: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        values = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**values, key: value}))

    return damage


def write(file: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text(text) and None


def cut(file: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size]) and None


def make_folder(file: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    return damage


def lose(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


W, C, T, G = "model.safetensors", "config.json", "tokenizer.json", "generation_config.json"
J = "chat_template.jinja"
DOUBLED = "{% set n = namespace(x=1 * 'x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights pointer": (write(W, POINTER), f"{W} is a pointer of Git LFS, not the file itself"),
    "weights gone": (lose(W), f"has no weights ({W})"),
    "weights empty": (write(W, ""), f"{W} is empty."),
    "weights cut": (cut(W, 3_000_000), f"{W} is cut short: 3,000,000 bytes of 5,775,920."),
    "weights cut in the header": (cut(W, 1000), f"{W} is no safetensors file, or only the beginning of one, 1,000"),
    "weights garbage": (write(W, "x" * 5000), f"{W} is no safetensors file"),
    "weights header": (lambda f: (f / W).write_bytes((2).to_bytes(8, "little") + b"[]") and None, f"{W}: its header"),
    "weights folder": (make_folder(W), f"{W} is a folder."),
    "config empty": (write(C, ""), f"{C} is empty."),
    "config half": (cut(C, 200), f"{C} is no JSON, or only a part of it"),
    "config list": (write(C, "[]"), f"{C} must be a JSON object, {{...}}, and is a list."),
    "config null": (write(C, "null"), f"{C} must be a JSON object, {{...}}, and is null."),
    "config deep": (write(C, "[" * 100_000), f"{C} is no JSON, or only a part of it (nested too deep)"),
    "config bytes": (lambda f: (f / C).write_bytes(b"\xff\xfe\x00") and None, f"{C} is no JSON"),
    "config no type": (set_key(C, "model_type", None), f"{C} names no model_type"),
    "heads do not divide": (set_key(C, "num_attention_heads", 3), f"{C}: 3 heads are not divisible by 4 key-value"),
    "negative": (set_key(C, "hidden_size", -128), f"{C}: hidden_size=-128 must be a whole number of at least 1"),
    "zero": (set_key(C, "num_hidden_layers", 0), f"{C}: num_hidden_layers=0 must be a whole number of at least 1"),
    "text": (set_key(C, "vocab_size", "many"), f"{C}: vocab_size='many' must be a whole number of at least 1"),
    "huge": (set_key(C, "intermediate_size", 2**40), f"{C}: intermediate_size=1099511627776 must be a whole number"),
    "other hidden size": (set_key(C, "hidden_size", 64), "are not those of its config.json"),
    "other vocabulary": (set_key(C, "vocab_size", 5000), "is 2304 x 128, and config.json says 5000 x 128"),
    "more layers": (set_key(C, "num_hidden_layers", 6), "they hold 4 layers, and config.json says 6"),
    "fewer layers": (set_key(C, "num_hidden_layers", 3), "they hold 4 layers, and config.json says 3"),
    "tied is text": (set_key(C, "tie_word_embeddings", "no"), f"{C}: tie_word_embeddings='no' must be true or false"),
    "quantization": (set_key(C, "quantization_config", [1]), f"{C}: quantization_config=[1] must be a JSON object"),
    "text part": (set_key(C, "text_config", 7), f"{C}: text_config=7 must be a JSON object, {{...}}."),
    "tokenizer gone": (lose(T), "has no tokenizer: neither tokenizer.json, tokenizer.model nor vocab.json"),
    "tokenizer half": (cut(T, 70_000), f"{T} is no JSON, or only a part of it"),
    "tokenizer list": (write(T, "[1]"), f"{T} must be a JSON object, {{...}}, and is a list."),
    "tokenizer of nothing": (write(T, "{}"), f"{T} has no model"),
    "tokenizer pointer": (write(T, POINTER), f"{T} is a pointer of Git LFS"),
    "tokenizer config": (write("tokenizer_config.json", "3"), "tokenizer_config.json must be a JSON object"),
    "tokenizer length": (set_key("tokenizer_config.json", "model_max_length", ""), "_length='' must be a number"),
    "template": (lambda f: (f / "chat_template.jinja").write_bytes(b"\xff\xff") and None, "is no text in UTF-8"),
    "template without end": (write(J, DOUBLED), f"{J} takes more than 1 GiB of memory for a few short turns. Mend"),
    "generation list": (write(G, "[]"), f"{G} must be a JSON object"),
    "generation text": (write(G, '{"temperature": "hot"}'), f"{G}: temperature='hot' must be a whole number or"),
    "generation temperature": (write(G, '{"temperature": -1}'), f"{G}: temperature=-1 must be at least 0. Mend it, or"),
    "generation no number": (write(G, '{"temperature": NaN}'), f"{G}: temperature=nan must be at least 0"),
    "generation top_p": (write(G, '{"top_p": 5, "do_sample": true}'), f"{G}: top_p=5 must be from 0 to 1. Mend it"),
    "generation beams": (write(G, '{"num_beams": 0}'), f"{G}: num_beams=0 must be at least 1. Mend it"),
    "generation penalty": (write(G, '{"repetition_penalty": -0.5}'), f"{G}: repetition_penalty=-0.5 must be at"),
    "generation length": (write(G, '{"max_new_tokens": 0}'), f"{G}: max_new_tokens=0 must be at least 1"),
    "generation ids": (write(G, '{"eos_token_id": ["a"]}'), f"{G}: eos_token_id=['a'] must be a whole number or"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused(folder, name):
    damage, said = DAMAGE[name]
    damage(folder)
    line = refusal(folder)
    assert said in line and str(folder) in line


def test_nothing_is_refused_without_damage(folder):
    assert check.check(make_run(f"model.path={folder}")) is None
    (folder / W).unlink()
    assert check.check(make_run(f"model.path={folder}", "model.init=random")) is None


def test_it_is_told_before_torch_and_before_any_folder_is_made(each, folder):
    (folder / W).write_text(POINTER)
    lines = [
        f"model.path={folder} run.name=a",
        f"model=local model.path={folder} run.name=b",
        "model.attention=flash_attention_2 hardware=cpu run.name=c",
        "hardware=cpu train.optimizer=paged_ademamix_8bit run.name=d",
        "hardware=cpu hardware.devices=2 deepspeed=z2 hardware.precision=fp16 run.name=e",
        "lora.target_modules=[q_proj,v_prj] run.name=f",
    ]
    said = [
        "is a pointer of Git LFS, not the file itself: the repository was cloned without its large files.",
        "is a pointer of Git LFS",
        "model.attention=flash_attention_2 needs a GPU; use model.attention=auto or sdpa",
        "train.optimizer=paged_ademamix_8bit needs a GPU; on a CPU use ademamix_8bit",
        "hardware.precision=fp16 under DeepSpeed needs a GPU; on a CPU use bf16 or fp32, or deepspeed=none",
        "lora.target_modules=v_prj: the model has no such linear layer or embedding. Its linear layers: ",
    ]
    for line, end in each(lines).items():
        assert said[lines.index(line)] in end.stderr
        assert end.returncode == 1 and "Traceback" not in end.stderr
        assert end.heavy == [] and end.left == ["model"]


# ------------------------------------------------------------------------------------------------------------- shards


def shard(folder: Path) -> list[Path]:
    """The weights in two files, with the index that says which tensor is where."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / W)
    (folder / W).unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    where = {name: file for file, part in parts.items() for name in part}
    (folder / f"{W}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return [folder / file for file in parts]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone", "model-00002-of-00002.safetensors does not exist. Copy the folder again. It is file 2 of 2 in "),
        ("cut", "model-00002-of-00002.safetensors is cut short: "),
        ("pointer", "model-00002-of-00002.safetensors is a pointer of Git LFS"),
        ("swapped", "model-00002-of-00002.safetensors has no model.layers.2.input_layernorm.weight, which "),
        ("index list", "model.safetensors.index.json must be a JSON object"),
        ("index empty", "model.safetensors.index.json has no weight_map of tensors to files"),
        ("outside", "names ../x.safetensors, which is not in the folder itself"),
        ("index gone", "it has model-00001-of-00002.safetensors and no model.safetensors.index.json"),
    ],
)  # fmt: skip
def test_damaged_shards(folder, name, said):
    first, second = shard(folder)
    index = folder / f"{W}.index.json"
    assert check.check(make_run(f"model.path={folder}")) is None
    if name == "gone":
        second.unlink()
    elif name == "cut":
        second.write_bytes(second.read_bytes()[:-10])
    elif name == "pointer":
        second.write_text(POINTER)
    elif name == "swapped":
        shutil.copy(first, second)
    elif name == "index gone":
        index.unlink()
    else:
        maps = {"index list": "[]", "index empty": "{}", "outside": '{"weight_map": {"a": "../x.safetensors"}}'}
        index.write_text(maps[name])
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04" + b"\0" * 900, "pytorch_model.bin is cut short: its end is missing."),
        (b"hello", "pytorch_model.bin is no file of torch."),
        (POINTER.encode(), "pytorch_model.bin is a pointer of Git LFS"),
        (b"", "pytorch_model.bin is empty."),
    ],
)
def test_damaged_files_of_torch(folder, data, said):
    (folder / W).unlink()
    (folder / "pytorch_model.bin").write_bytes(data)
    assert said in refusal(folder)


# ---------------------------------------------------------------------------------------------- a tensor is not there


def without(folder: Path, *lost: str, added: str | None = None) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / W)
    for name in lost:
        value = tensors.pop(name)
        if added:
            tensors[added] = value
    save_file(tensors, folder / W, metadata={"format": "pt"})


def test_a_lost_tensor_is_named_before_torch(folder):
    without(folder, "model.layers.1.mlp.up_proj.weight")
    assert refusal(folder) == (
        f"{folder}: the weights are not those of its config.json: they lack model.layers.1.mlp.up_proj.weight. Copy "
        "the folder again."
    )


@pytest.mark.parametrize("lost", ["model.norm.weight", "lm_head.weight"])
def test_a_lost_tensor_that_only_loading_can_tell(folder, lost):
    """In no layer: refused by name while loading, where transformers would draw it at random."""
    from ftlab.model.load import load_model

    without(folder, lost, added="model.nrom.weight")
    with pytest.raises(NotReadyError) as caught:
        load_model(make_run(f"model.path={folder}"))
    assert str(caught.value) == (
        f"model.path={folder}: its files lack {lost}, and training would start from random numbers there. They have "
        "model.nrom.weight, which the model has no place for. Copy the folder again."
    )


def test_tensors_of_other_shapes(folder):
    from safetensors.torch import load_file, save_file

    from ftlab.model.load import load_model

    tensors = load_file(folder / W)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:5].clone()
    save_file(tensors, folder / W, metadata={"format": "pt"})
    with pytest.raises(NotReadyError, match=r"tensors of its files have other shapes than its config.json says"):
        load_model(make_run(f"model.path={folder}"))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hidden_act", "nope", "cannot be loaded: 'nope' is not known"),
        ("rms_norm_eps", "small", "the tokenizer cannot be loaded: Validation error for field 'rms_norm_eps': "),
    ],
)  # fmt: skip
def test_what_only_transformers_can_judge_is_told_with_the_key_or_the_word(folder, tmp_path, key, value, said):
    set_key(C, key, value)(folder)
    with pytest.raises(NotReadyError) as caught:
        train_run(tmp_path / "run", f"model.path={folder}", *BARE, "data.max_samples=8", "train.max_steps=1")
    assert said in str(caught.value) and "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------- how answers are generated


def test_sampling_values_without_do_sample_are_kept_and_can_be_saved(folder, tmp_path):
    (folder / G).write_text('{"temperature": 0.6, "top_p": 0.9, "eos_token_id": 1}')
    given = (f"model.path={folder}", *BARE, "train.max_steps=1", "data.max_samples=8", "method=full")
    run_dir = train_run(tmp_path / "run", *given, "train.save_steps=1")
    saved = json.loads((run_dir.final / G).read_text())
    assert (saved["temperature"], saved["top_p"], saved["do_sample"]) == (0.6, 0.9, True)
    log = run_dir.log.read_text()
    assert log.count(f"{folder / G} has temperature=0.6, top_p=0.9: for who serves the weights") == 1
    assert log.count("It gets do_sample=true there, as it could not be saved otherwise") == 1


def test_other_settings_that_cannot_be_saved_are_refused_on_loading(folder):
    from ftlab.model.load import load_model

    (folder / G).write_text('{"num_beams": 1, "length_penalty": 0.5}')
    with pytest.raises(NotReadyError, match=r"generation_config.json cannot be written .*`length_penalty`"):
        load_model(make_run(f"model.path={folder}"))


@pytest.mark.parametrize(("method", "end"), [("lora", "; method=lora does not train them"), ("full", "")])
def test_a_tokenizer_larger_than_the_embedding_is_told(folder, tmp_path, method, end):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<new{i}>" for i in range(7)])
    tokenizer.save_pretrained(folder)
    given = (f"model.path={folder}", *BARE, "train.max_steps=1", "data.max_samples=8", f"method={method}")
    log = train_run(tmp_path / "run", *given).log.read_text()
    assert (
        "the tokenizer has 2,311 tokens and the embedding 2,304 rows: added 7 rows about the mean of the others, for "
        f"<new0>, <new1>, <new2>, <new3>, <new4> and 2 more{end}\n"
    ) in log


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only torch knows")
def test_hardware_that_is_not_here(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("ftlab.distributed.world._OTHER_DEVICES", ())
    with pytest.raises(NotReadyError, match="hardware=a100_80gb asks for an accelerator, and this machine has none"):
        check.check(make_run("hardware=a100_80gb"))
