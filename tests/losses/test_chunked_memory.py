"""Peak memory of a step with cached top-k logits, each measured in a new process."""

import pathlib

import pytest

from tests.benchmarks.cached_top_k import megabytes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="reads the peak memory from /proc"),
]


def test_chunks_of_a_cache_take_a_fraction_of_the_memory():
    """Logits of 1024 tokens and 32,000 words take 131 MB, of which the loss of all words holds several copies."""
    dense, chunked = (megabytes(path, 1024, 32_000) for path in ("dense", "chunked"))
    assert dense > 4 * 131
    assert chunked < 131 and chunked < dense / 5


def test_a_large_vocabulary_fits_into_400_megabytes():
    """All logits would take 1.05 GB; those of a chunk take 16 MB, the kernel and its gradient 33 MB each."""
    assert megabytes("chunked", 2048, 128_000) < 400
