"""Entry point of `python -m keras_distill.cli`."""

import sys

from .main import main

sys.exit(main())
