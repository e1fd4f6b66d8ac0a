"""The command `keras-distill`.

Modules of this folder import one another by relative names, and the rest of the package only when a job begins: the
folder is also installed as `keras_distill_cli`, so that `--help` need not wait for TensorFlow.
"""

from .main import main
