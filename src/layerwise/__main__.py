"""``python -m layerwise`` and the ``layerwise`` command."""

import sys

from layerwise.cli import main

if __name__ == "__main__":
    sys.exit(main())
