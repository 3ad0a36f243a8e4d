"""A process for each attached volume: from the object store to a socket that speaks NBD.

    python -m breezeblock.objects.serving <task.json

It reads a `Task` from its standard input, for a task has secrets, prints one line when it can be used
(or why it cannot), and runs until it is told to detach, by SIGTERM or through its control socket. Either
is a barrier: everything written is in the store afterwards, and nothing is left on this host.

What is read is a *keeper*: it forks the process that works, and should that be killed, forks another within
milliseconds, as all its modules are loaded. A keeper that is killed takes its child along; then whoever
has the task starts another, and the journal brings back what was acknowledged.
"""

from breezeblock.objects.serving.client import call, kept, running, sockets, start
from breezeblock.objects.serving.messages import (
    Answer,
    Compact,
    Detach,
    Endpoints,
    Flush,
    Grow,
    Request,
    Snapshot,
    Status,
    Task,
    View,
    control_path,
)

__all__ = [
    "Answer",
    "Compact",
    "Detach",
    "Endpoints",
    "Flush",
    "Grow",
    "Request",
    "Snapshot",
    "Status",
    "Task",
    "View",
    "call",
    "control_path",
    "kept",
    "running",
    "sockets",
    "start",
]
