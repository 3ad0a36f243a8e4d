"""Who is asking: users, projects, passwords and tokens for one machine, without a Keystone.

Tokens are random and opaque; only their SHA-256 is stored. Passwords are stored as scrypt. The rest of
the service sees a `Caller` and never learns how it was found out.
"""

from typing import Literal

from breezeblock.catalog.database import Database
from breezeblock.identity.authenticators import Authenticator, Builtin, HttpBasic, NoAuth
from breezeblock.identity.tokens import Tokens

Mode = Literal["builtin", "http_basic", "none"]

__all__ = ["Authenticator", "Mode", "Tokens", "make_authenticator"]


def make_authenticator(database: Database, mode: Mode, token_ttl_s: float = 3600.0) -> Authenticator:
    """Return the authenticator that `[auth] mode` asks for."""
    if mode == "builtin":
        return Builtin(Tokens(database, ttl_s=token_ttl_s))
    if mode == "http_basic":
        return HttpBasic(database)
    return NoAuth()
