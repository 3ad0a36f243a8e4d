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
from breezeblock.testing.kill import Moment, Outcome, run_killed_at, trace_lines
from breezeblock.testing.lab import Disk, Lab, Storage
from breezeblock.testing.schedule import Ending, Report, Scenario, kill_everywhere, kills

__all__ = [
    "Case",
    "Disk",
    "Ending",
    "Lab",
    "Moment",
    "Outcome",
    "Report",
    "Scenario",
    "Storage",
    "cases",
    "kill_everywhere",
    "kills",
    "run_killed_at",
    "trace_lines",
]
