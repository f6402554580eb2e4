"""How much memory a run takes on one device, from its config alone: arithmetic, without weights, network or torch.
Of the model's files it reads config.json, where one is on this machine, for how weights are stored.

Every figure is bytes. Sources of the formulas, by the letter that a comment names:

[A] Korthikanti et al. 2022, Reducing Activation Recomputation in Large Transformer Models, section 4
    (https://arxiv.org/abs/2205.05198), written out for what this project's forward saves.
[Q] Dettmers et al. 2023, QLoRA, sections 2 and 3 (https://arxiv.org/abs/2305.14314): 4 bits a weight, one constant for
    each block of 64, themselves in 8 bits for each block of 256 under double quantization.
[G] Frantar et al. 2022, GPTQ, section 4 (https://arxiv.org/abs/2210.17323), and Lin et al. 2023, AWQ
    (https://arxiv.org/abs/2306.00978): groups of weights that share a scale and a zero point.
[8] Dettmers et al. 2021, 8-bit Optimizers via Block-wise Quantization (https://arxiv.org/abs/2110.02861).
[Z] Rajbhandari et al. 2019, ZeRO, section 3 and figure 1 (https://arxiv.org/abs/1910.02054).
[L] Hu et al. 2021, LoRA (https://arxiv.org/abs/2106.09685).
[T] what PyTorch's autograd saves for the operators of transformers' decoder, as torch.profiler shows it.

``benchmarks/memory.py`` compares the sum with what is measured; docs/memory.md has the table.
"""

from ftlab.preflight.memory.activations import foreseen_attention
from ftlab.preflight.memory.device import Device, device_of
from ftlab.preflight.memory.host import Host, checkpoint_copy_bytes, predict_host
from ftlab.preflight.memory.kernels import foreseen_layers
from ftlab.preflight.memory.peak import Prediction, bytes_of_choices, offloads, predict

__all__ = [
    "Device", "Host", "Prediction", "bytes_of_choices", "checkpoint_copy_bytes", "device_of", "foreseen_attention",
    "foreseen_layers", "offloads", "predict", "predict_host",
]  # fmt: skip
