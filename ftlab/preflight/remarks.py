"""What keeps no run from starting, and what its user should know of the model."""

from __future__ import annotations

from ftlab.config.model_folder import LOCAL
from ftlab.preflight.memory import device_of
from ftlab.pretrained.architecture import describe
from ftlab.pretrained.generation import generation_remark
from ftlab.schema import Run


def remarks(run: Run) -> list[str]:
    """One line each: a shape that is the folder's and not the recipe's, and rows beyond the model's positions."""
    model, shape, lines = run.model, run.model.architecture, []
    if model.recipe is not None:
        line = f"model.path={model.path}: {describe(shape.model_dump())}, as its config.json says"
        if model.recipe != LOCAL:
            line += (
                f"; model={model.recipe} has another shape, and its rates and lengths stay: model={LOCAL} takes those "
                "from the folder too"
            )
        lines.append(line)
    lines += generation_remark(model.path, model.revision)
    if run.data.max_length > shape.max_positions:
        lines.append(
            f"data.max_length={run.data.max_length} is more than the {shape.max_positions:,} positions that "
            f"{model.name} was trained with. Its positions are computed, so longer rows train; how well it reads "
            "beyond is for you to measure"
        )
    if run.train.activation_offload and device_of(run, is_here=True).kind == "cpu":
        lines.append(
            "train.activation_offload=true does nothing on a CPU: activations are in the host's memory as it is. On a "
            "GPU the same run moves them there"
        )
    return lines
