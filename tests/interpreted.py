"""Liger's kernels on a CPU: Triton runs them on NumPy where TRITON_INTERPRET=1 is set before it is imported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from ftlab.pretrained.liger import is_interpreted, missing_liger

INTERPRETED = [
    pytest.mark.matrix,
    pytest.mark.skipif(
        not is_interpreted() or bool(missing_liger()), reason="make test-liger has Liger and TRITON_INTERPRET"
    ),
]


@contextmanager
def whole_interpreter() -> Iterator[None]:
    """With what Triton 3.9's interpreter lacks and its compiler has: numbers as arguments, which are tensors within a
    kernel, and functions of CUDA's library."""
    from liger_kernel.ops import geglu, rms_norm
    from triton import language
    from triton.runtime import interpreter

    convert = interpreter._implicit_cvt

    def convert_floats(argument: Any) -> Any:
        if not isinstance(argument, float):
            return convert(argument)
        handle = interpreter.TensorHandle(np.array([argument], dtype=np.float32), language.float32)
        return language.tensor(handle, language.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_implicit_cvt", convert_floats)
        patch.setattr(rms_norm, "rsqrt", lambda number: language.rsqrt(number))
        patch.setattr(geglu, "tanh", lambda number: 2 * language.sigmoid(2 * number) - 1)
        yield
