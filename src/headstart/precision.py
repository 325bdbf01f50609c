"""In which precision networks compute: fp32 is IEEE float32, bf16 is autocast to bfloat16."""

import torch


def use_bf16(precision: str, device: torch.device) -> bool:
    """Return whether to autocast to bfloat16: asked for, or `auto` on hardware that multiplies it natively."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch 2.9, the pin of other machines than x86_64, has no such function
    return hasattr(torch.cpu, "get_capabilities") and torch.cpu.get_capabilities().get("avx512_bf16", False)


def use_ieee_float32() -> None:
    """Let float32 products on a GPU have float32's 24 bits, for this process.

    By default cuDNN's convolutions round their inputs to TF32's 11 bits, and cuBLAS's products do not: half a network
    would compute in one precision and half in another. Who wants speed takes bf16, which is faster still.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def autocast_anew(device: torch.device) -> torch.autocast:
    """Return the autocast that a caller has entered or not, keeping no weights that it has cast.

    For functions that a CUDA graph may hold: a weight that was cast outside would stay as it was.
    """
    dtype, enabled = torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, dtype, enabled=enabled, cache_enabled=False)
