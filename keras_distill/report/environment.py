"""What a run ran on: versions and machine."""

import importlib.metadata
import os
import pathlib
import platform

import keras
import tensorflow as tf


def versions():
    """Versions of what decides the numbers, `{name: version}`; keras_distill only if it is installed."""
    found = {"python": platform.python_version(), "keras": keras.__version__, "tensorflow": tf.__version__}
    try:
        found["keras_distill"] = importlib.metadata.version("keras-distill")
    except importlib.metadata.PackageNotFoundError:
        pass
    return found


def machine():
    """The machine: `cores` this process may use, `processor` and the names of its `accelerators`."""
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
