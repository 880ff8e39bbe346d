"""Where and with what a result was made, in words."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import lab


def machine_in_words() -> str:
    """The machine of this process: "2 CPU cores, 24 GiB, Intel Xeon; jax 0.10.2 cpu"."""
    cores = num_cores()
    parts = [f"{cores} CPU core{'s' if cores != 1 else ''}"]
    memory = _memory_bytes()
    if memory:
        parts.append(f"{round(memory / 2**30)} GiB")
    parts.append(_processor_name())
    return f"{', '.join(parts)}; {_devices_in_words()}"


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def commit_in_words() -> str:
    """The commit of the sources ("1a2b3c4", "1a2b3c4 with changes"), else the released version."""
    root = Path(lab.__file__).resolve().parents[1]
    if (root / ".git").exists():
        head = _git(root, "rev-parse", "--short=10", "HEAD")
        if head:
            changed = _git(root, "status", "--porcelain", "--untracked-files=no")
            return f"{head} with changes" if changed else head
    return f"tenfold {lab.__version__}"


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def _processor_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    except OSError:
        found = None
    name = found.group(1) if found else platform.processor() or platform.machine()
    name = re.sub(r"\((R|TM|tm|r)\)|\bCPU\b|\bProcessor\b|@.*", " ", name)
    return " ".join(name.split())


def _devices_in_words() -> str:
    import jax  # here, so that reading a result does not start jax

    devices = jax.local_devices()
    version = importlib.metadata.version("jax")
    if devices[0].platform == "cpu":
        many = f" as {len(devices)} devices" if len(devices) > 1 else ""
        return f"jax {version} cpu{many}"
    return f"jax {version} {devices[0].platform}, {len(devices)} x {devices[0].device_kind}"
