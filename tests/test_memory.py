"""Freed memory stays with the process."""

import subprocess
import sys

FAULTS = """
import resource, sys
import numpy as np
from bitfirst import memory
if sys.argv[1] == "kept":
    memory.keep()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 * 2**20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_freed_tensor_is_no_page_faults_again():
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("kept") < 100
    assert faults("given back") > faults("kept") + 20  # pages of 2 MiB, where the system gives those: 32
