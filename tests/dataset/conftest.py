"""Makes the generator importable, as it is for ``dataset/generate.py``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "dataset"))
