"""Put the simulator where tests find it."""

import sys
from pathlib import Path

for place in ("simulators", "service"):
    sys.path.insert(0, str(Path(__file__).parent.parent / place))
