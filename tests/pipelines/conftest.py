"""Leaves this folder alone unless its tests are asked for: TFX takes ten seconds to import, in every process."""

import re


def pytest_ignore_collect(config):
    return True if not re.search(r"(?<!not )\btfx\b", config.getoption("markexpr")) else None
