"""The files of ``conf/`` are read once."""

from __future__ import annotations

from omegaconf import OmegaConf

from ftlab.config.compose import compose, config_loader


def test_a_file_is_read_once_and_gives_the_same_each_time(tmp_path):
    (tmp_path / "lora").mkdir()
    file = tmp_path / "lora" / "mine.yaml"
    file.write_text("defaults:\n  - default\n\nr: 5\n")
    loader = config_loader(str(tmp_path))
    first = compose(["lora=mine", "lora.alpha=7"], loader)
    file.write_text("r: none of it\n")
    second = compose(["lora=mine", "stage=dpo"], loader)
    assert (first.lora.r, first.lora.alpha, second.lora.r, second.lora.alpha) == (5, 7, 5, 32)
    third = compose(["lora=mine", "lora.alpha=7"], loader)
    assert OmegaConf.to_yaml(third) == OmegaConf.to_yaml(first)


def test_a_folder_that_a_config_adds_is_searched_from_then_on(tmp_path):
    extra = tmp_path / "extra" / "lora"
    extra.mkdir(parents=True)
    (extra / "theirs.yaml").write_text("defaults:\n  - default\n\nr: 9\n")
    loader = config_loader()
    compose([], loader)
    assert compose(["lora=theirs", f"hydra.searchpath=[file://{extra.parent}]"], loader).lora.r == 9
