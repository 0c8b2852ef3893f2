"""`python -m amaru` is the command `amaru`."""

import sys

from amaru.cli.main import main

sys.exit(main())
