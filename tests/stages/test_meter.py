"""Means that are logged: exact, and with nothing hidden in them."""

from __future__ import annotations

import math

import pytest
import torch

from ftlab.stages.trainer.meter import Meter

nan = math.nan


def alone(tensor, how):
    assert how == "sum"
    return tensor


def test_a_mean_is_over_the_items_that_have_the_measure():
    meter = Meter()
    meter.add({"chosen": torch.tensor([1.0, nan, 3.0]), "kl": torch.tensor([0.5, 0.5, 0.5])})
    meter.add({"chosen": torch.tensor([nan, 5.0]), "kl": torch.tensor([1.0, 1.0])})
    assert meter.means(alone) == {"chosen": 3.0, "kl": pytest.approx(0.7)}
    assert meter.means(alone) == {}, "and then it begins anew"


def test_a_loss_that_is_not_a_number_is_seen():
    meter = Meter()
    meter.add({"loss": torch.tensor([1.0, nan])}, is_complete=True)
    meter.add({"loss": torch.tensor([1.0])}, is_complete=True)
    assert math.isnan(meter.means(alone)["loss"])


def test_many_small_terms_do_not_drown():
    meter = Meter()
    meter.add({"loss": torch.tensor([1e8])}, is_complete=True)
    for _ in range(1000):
        meter.add({"loss": torch.tensor([1.0])}, is_complete=True)
    assert meter.means(alone)["loss"] == (1e8 + 1000) / 1001
