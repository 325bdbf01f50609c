"""How a training process holds its memory on the host."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # mallopt(3)


def keep_freed_memory() -> None:
    """Let glibc keep most of what is freed for the next allocation; does nothing where there is no glibc.

    By default every tensor over 32 MB goes back to the kernel when it is freed, and the next one costs a page fault for
    each 4 KB: about a tenth of a ResNet-34 step of 1,280 images at 32 px on 2 cores. The process's memory stays at its
    peak instead, which is up to an eighth higher.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
