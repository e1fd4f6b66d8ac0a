"""Skip files unless the marker `tfx` or one of their cases is selected: importing TFX takes ten seconds."""

import re


def pytest_ignore_collect(collection_path, config):
    if re.search(r"(?<!not )\btfx\b", config.getoption("markexpr")):
        return None
    chosen = (config.getoption("cases") or "").split(",")
    if collection_path.suffix == ".py" and set(re.findall(r'case\("(\w+)"\)', collection_path.read_text())) & {*chosen}:
        return None
    return True
