"""Console script `keras-distill`: start the command line without importing TensorFlow first."""

import importlib.util
import pathlib
import sys

# This module is the package `keras_distill/cli` under a name that does not import `keras_distill`, and so TensorFlow.
__path__ = [str(pathlib.Path(importlib.util.find_spec("keras_distill").origin).parent / "cli")]


def main() -> int:
    """Run the command line and return its exit status."""
    from keras_distill_cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
