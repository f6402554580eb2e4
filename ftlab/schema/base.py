"""What every group is made of: bounds, names, and the mark of a key that may change."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

OPERATIONAL = "operational"
CHOOSING = "unless evaluations choose the weights"
operational = Field(json_schema_extra={OPERATIONAL: True})
# Of evaluations: under train.keep_best and train.early_stopping they decide which weights a run ends with.
choosing = Field(json_schema_extra={OPERATIONAL: CHOOSING})

Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]

StageName = Literal["pt", "sft", "rm", "ppo", "dpo", "kto", "orpo", "grpo"]
Format = Literal[
    "alpaca", "sharegpt", "messages", "instruction", "prompt_completion", "preference", "kto", "prompts", "text"
]
Template = Literal[
    "alpaca", "baichuan", "chatglm3", "chatml", "codeqwen", "deepseek", "deepseek_coder", "deepseek_r1", "falcon",
    "gemma", "gemma3", "internlm2", "llama2", "llama3", "llama3_1", "mistral", "mistral_nemo", "mixtral", "phi3",
    "phi4", "plain", "qwen", "qwen3", "qwen3_nothink", "starcoder2", "vicuna", "yi", "yi_1_5", "zephyr",
]  # fmt: skip


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def folder_name(name: str | None, inside: str, elsewhere: str) -> str | None:
    """A name that a folder can have on any system, as it is.

    :param inside: the folder that it is in. :param elsewhere: the key that names a folder anywhere.
    :raises ValueError: it cannot be one.
    """
    if name is not None and (not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or set(name) == {"."}):
        raise ValueError(f"names a folder of {inside}: letters, digits, _ . and -, and not dots alone. For a folder "
                         f"anywhere give {elsewhere}")  # fmt: skip
    return name
