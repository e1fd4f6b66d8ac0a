"""Recipes: plain Python files that distill a model on real data; run one with `python -m recipes.<name> --help`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
