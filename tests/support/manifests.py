"""Manifests of caches, rewritten as an attacker or a faulty program would."""

import hashlib
import json


def rewrite(directory, **values):
    """Replace values of a manifest, with a checksum that matches."""
    path = directory / "manifest.json"
    values = {**json.loads(path.read_text()), **values}
    del values["sha256"]
    checksum = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**values, "sha256": checksum}))
