"""Benchmarks. Run one with `python -m tests.benchmarks.step_time`. They are not collected as tests."""
