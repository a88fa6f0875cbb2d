"""``python -m strfnet.cli`` is the command ``strfnet``."""

import sys

from strfnet.cli.parser import main

sys.exit(main())
