"""What this machine is called."""

import platform
import re
from pathlib import Path


def processor() -> str:
    """Return the processor's name, as /proc/cpuinfo has it, else its architecture."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()
