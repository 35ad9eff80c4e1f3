"""Verbs in a process that cannot import PyTorch."""

import subprocess
import sys

WITHOUT_TORCH = (
    "import sys\nsys.modules.update(dict.fromkeys(['torch', 'torchaudio', 'torchvision', 'lightning']))\n"
    "from omni.cli import main\nmain(sys.argv[1:])"
)


def without_torch(*args: str) -> str:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
