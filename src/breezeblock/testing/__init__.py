"""The contract suite: hold any back end, also one from outside, to the contract.

Write a `Storage` of about 20 lines, then:

    @pytest.mark.parametrize("case", cases(), ids=str)
    def test_contract(case, storage):
        case.run(storage)

    @pytest.mark.parametrize(("scenario", "ending"), kills(), ids=str)
    def test_killed_anywhere(scenario, ending, storage):
        kill_everywhere(storage, scenario, ending)

Nothing here needs pytest: `case.run` raises AssertionError where a promise is broken.
"""

from breezeblock.testing.case import Case, cases
from breezeblock.testing.kill import Moment, Outcome, Trace, run_killed_at, trace, trace_lines
from breezeblock.testing.lab import Disk, InDirectory, Lab, Storage
from breezeblock.testing.scenarios import Ending, Scenario, kills
from breezeblock.testing.schedule import Report, kill_everywhere

__all__ = [
    "Case",
    "Disk",
    "Ending",
    "InDirectory",
    "Lab",
    "Moment",
    "Outcome",
    "Report",
    "Scenario",
    "Storage",
    "Trace",
    "cases",
    "kill_everywhere",
    "kills",
    "run_killed_at",
    "trace",
    "trace_lines",
]
