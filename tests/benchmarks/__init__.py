"""Benchmarks; run one with `python -m tests.benchmarks.step_time`. Not collected as tests."""
