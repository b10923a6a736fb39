"""``python -m gpulime`` is the command ``gpulime``."""

import sys

from gpulime.cli import main

if __name__ == "__main__":
    sys.exit(main())
