"""Block Storage v3 over HTTP, and the small Identity v3 that lets its clients log in.

Every handler is a plain function from `Request` to `Reply`, run in a worker thread: it checks what the
client sent, calls the service, and encodes the answer, all off the event loop.
"""

from breezeblock.api.app import create_app
from breezeblock.api.http import ApiSettings

__all__ = ["ApiSettings", "create_app"]
