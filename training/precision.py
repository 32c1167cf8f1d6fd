"""Whether bfloat16 saves time here: a processor without arithmetic for it emulates every product."""

import logging
import platform

import torch

logger = logging.getLogger("assay.training")


def computes_bf16() -> bool:
    """Whether the device that trains multiplies bfloat16 itself."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.accelerator.is_available() or platform.machine() not in ("x86_64", "AMD64"):
        return True
    found = torch.cpu.get_capabilities()
    return bool(found["avx512_bf16"] or found["amx_bf16"])


def bf16_if_it_helps(setting: bool, name: str) -> bool:
    """The `setting` called `name`, and off, with a warning, where bfloat16 would only be emulated."""
    if setting and not computes_bf16():
        logger.warning("%s: this processor has no arithmetic in bfloat16 and would be slower; float32 is used", name)
        return False
    return setting
