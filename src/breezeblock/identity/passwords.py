"""Password hashes: scrypt from the standard library, RFC 7914.

n=2^15, r=8, p=1 costs about 0.1 s and 32 MiB a check. At most two checks run at a time, so that a crowd
of logins cannot take the machine's memory; a right password is then remembered for a minute in memory
(as a keyed hash, bound to the stored hash, so that a changed password is at once a wrong one).
"""

import base64
import hashlib
import hmac
import os
import threading
import time

_N, _R, _P = 2**15, 8, 1
_MAX_MEMORY = 64 * 1024 * 1024
_REMEMBERED = 1024
_REMEMBER_S = 60.0
MAX_PASSWORD_BYTES = 4096

_turn = threading.BoundedSemaphore(2)


def hash_password(password: str) -> str:
    """Return the text to store for a password."""
    salt = os.urandom(16)
    digest = _scrypt(password, salt, _N, _R, _P)
    return f"scrypt${_N}${_R}${_P}${_encode(salt)}${_encode(digest)}"


def verify(password: str, stored: str) -> bool:
    """Say whether a password is the stored one, in a time that does not tell how wrong it is."""
    if len(password.encode(errors="replace")) > MAX_PASSWORD_BYTES:
        return False
    try:
        scheme, n, r, p, salt, digest = stored.split("$")
        found = _scrypt(password, base64.b64decode(salt), int(n), int(r), int(p))
        expected = base64.b64decode(digest)
    except ValueError:
        return False  # no hash of ours: a row that somebody else wrote
    return scheme == "scrypt" and hmac.compare_digest(found, expected)


class Verifier:
    """`verify`, remembering right answers for a minute."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._known: dict[bytes, float] = {}
        self._lock = threading.Lock()
        # An unknown user costs what a known one costs, or the answer's time would list the users.
        self._dummy = hash_password(base64.b64encode(os.urandom(24)).decode())

    def __call__(self, password: str, stored: str | None) -> bool:
        """Say whether a password is right; `stored` None is an unknown user's."""
        if stored is None:
            verify(password, self._dummy)
            return False
        text = f"{stored}\0{password}".encode(errors="replace")
        key = hmac.digest(self._key, text, "sha256")
        with self._lock:
            if self._known.get(key, 0.0) > time.monotonic():
                return True
        if not verify(password, stored):
            return False
        with self._lock:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = time.monotonic() + _REMEMBER_S
        return True


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    with _turn:
        return hashlib.scrypt(
            password.encode(errors="replace"), salt=salt, n=n, r=r, p=p, maxmem=_MAX_MEMORY, dklen=32
        )


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
