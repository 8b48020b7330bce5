"""Lets the tests import what they share, whichever way pytest imports them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
