"""Software versions and hardware of a run."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
from typing import Any

import keras
import tensorflow as tf


def versions() -> dict[str, str]:
    """Return the versions of the packages that determine the results, `{name: version}`.

    keras_distill is listed only if it is installed as a package.
    """
    found = {"python": platform.python_version(), "keras": keras.__version__, "tensorflow": tf.__version__}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["keras_distill"] = importlib.metadata.version("keras-distill")
    return found


def machine() -> dict[str, Any]:
    """Return the hardware: `cores` available to this process, `processor` and the names of the `accelerators`."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "processor": _processor(),
        "accelerators": [_device_name(device) for device in tf.config.list_physical_devices("GPU")],
    }


def _processor():
    # On Linux `platform.processor()` is empty or only the architecture.
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _device_name(device):
    return tf.config.experimental.get_device_details(device).get("device_name", device.name)
