"""Public API: the names in `__all__` of the package and its subpackages."""

import importlib

import keras_distill

SUBPACKAGES = [
    "cache",
    "callbacks",
    "compression",
    "data",
    "heads",
    "language",
    "losses",
    "mapping",
    "metrics",
    "models",
    "preflight",
    "report",
    "saving",
    "schedules",
    "teachers",
    "training",
    "tuning",
]
PACKAGES = [keras_distill, *(importlib.import_module(f"keras_distill.{name}") for name in SUBPACKAGES)]
# Classes and functions by their full name.
PUBLIC = {
    f"{value.__module__}.{value.__qualname__}": value
    for package in PACKAGES
    for name in package.__all__
    if callable(value := getattr(package, name)) and value.__module__.startswith("keras_distill")
}
