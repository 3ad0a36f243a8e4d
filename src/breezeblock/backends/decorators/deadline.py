"""An end to waiting for storage that does not answer.

A thread that hangs in the kernel (a hard NFS mount whose server is gone) cannot be ended. What can be
done is not to wait for it. That is safe for verbs that change nothing; a changing verb that was given
up could wake up later beside its successor, so those are left to the storage's own time-outs.
"""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread
from typing import TypeVar

from breezeblock.backends.contract import Backend
from breezeblock.backends.proxy import Proxy
from breezeblock.errors import UnavailableError

T = TypeVar("T")

READING = frozenset({"stats", "connection_info", "check", "inventory"})


def add_deadline(backend: Backend, *, seconds: float, most_abandoned: int = 4) -> Backend:
    """Raise `UnavailableError` when a reading verb has not answered within `seconds`.

    While `most_abandoned` calls hang, further ones fail at once: each holds a thread for good.
    """
    lock = Lock()
    abandoned = 0

    def late(verb: str) -> UnavailableError:
        return UnavailableError(
            f"Back end {backend.name} did not answer {verb} within {seconds:g} seconds.",
            remedy="See that its storage can be reached from this host.",
        )

    def around(verb: str, call: Callable[[], T]) -> T:
        nonlocal abandoned
        if verb not in READING:
            return call()
        with lock:
            if abandoned >= most_abandoned:
                raise late(verb)
        answer: Future[T] = Future()
        Thread(target=_run, args=(call, answer), name=f"{backend.name}-{verb}", daemon=True).start()
        try:
            return answer.result(seconds)
        except TimeoutError:
            if answer.done():  # just now, or it was the verb that raised this
                return answer.result()
            with lock:
                abandoned += 1

            def returned(_answer: Future[T]) -> None:
                nonlocal abandoned
                with lock:
                    abandoned -= 1

            answer.add_done_callback(returned)
            raise late(verb) from None

    return Proxy(backend, around)


def _run(call: Callable[[], T], answer: "Future[T]") -> None:
    try:
        answer.set_result(call())
    except BaseException as error:  # noqa: BLE001 - handed to the waiting thread
        answer.set_exception(error)
