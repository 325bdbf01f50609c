"""Most memory that is freed stays with the process; aligned blocks need a little more than they leave."""

import subprocess
import sys

import pytest

PROBE = """
import resource, sys, torch
from headstart.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    tensors = [torch.ones(9 * 2**20 + 4096 * index) for index in range(8)]  # 36 MiB and more each: over 9,216 pages
step()
before = faults()
for _ in range(4):
    step()
print(faults() - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROBE, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_large_tensors_reuse_the_pages_of_freed_ones():
    num_pages = 4 * 8 * 9216
    assert page_faults("kept") < num_pages / 2 < num_pages <= page_faults("given back")
