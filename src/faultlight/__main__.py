"""`python -m faultlight` is the `faultlight` command."""

import sys

from faultlight.cli import main

sys.exit(main())
