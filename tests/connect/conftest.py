"""Put the simulator, and how tests make things on it, where tests find them."""

import sys
from pathlib import Path

for place in ("simulators", "xenapi"):
    sys.path.insert(0, str(Path(__file__).parent.parent / place))
