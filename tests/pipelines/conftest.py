"""Skip this folder unless the marker `tfx` is selected: importing TFX takes ten seconds in every process."""

import re


def pytest_ignore_collect(config):
    return True if not re.search(r"(?<!not )\btfx\b", config.getoption("markexpr")) else None
