"""A XenServer pool without a XenServer: the wire, the objects and the storage of XenAPI, with real data.

Run alone with `python -m xenserver` from this directory's parent; in a test, `simulated()` starts it as a
process of its own.
"""

from xenserver.start import Simulator, simulated

__all__ = ["Simulator", "simulated"]
