"""What the host copies on the way to a device."""

import os
import subprocess
import sys

import pytest
import torch

from resnet_infer.pipeline.transfer import copy_bytes


def test_every_byte_is_copied() -> None:
    source, target = (torch.randint(0, 256, (1000,), dtype=torch.uint8) for _ in range(2))
    copy_bytes(source[3:503], target[:500])
    torch.testing.assert_close(target[:500], source[3:503])


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_large_copy_starts_no_threads() -> None:
    """PyTorch's would each want a core, and worker processes have them."""
    script = (
        "import os, torch\n"
        "from resnet_infer.pipeline.transfer import copy_bytes\n"
        "torch.set_num_threads(4)\n"
        "a, b = (torch.empty(2**24, dtype=torch.uint8) for _ in range(2))\n"
        "threads = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = threads()\n"
        "copy_bytes(a, b)\n"
        "ours = threads() - before\n"
        "b.copy_(a)\n"
        "print(ours, threads() - before)\n"
    )
    alone = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=alone)
    ours, pytorchs = map(int, done.stdout.split())
    assert pytorchs > 0  # or the test sees nothing
    assert ours == 0
