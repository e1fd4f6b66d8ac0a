"""Entry point of `python -m keras_distill.cli`."""

import os
import sys

# `python -m` puts the current directory first. Nothing may be imported from there unless `--import` names it. Another
# program that runs this module has another `sys.argv`.
if sys.argv[0] == __file__ and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from .main import main  # noqa: E402

sys.exit(main())
