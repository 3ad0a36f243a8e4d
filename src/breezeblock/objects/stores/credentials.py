"""Where credentials for S3 are looked for, as Amazon's own programs do: environment, then the shared file.

Those of containers and instances (metadata services) are not looked for.
"""

import configparser
import os
from pathlib import Path

from breezeblock.errors import ConfigError
from breezeblock.objects.stores.sigv4 import Credentials

_NAMES = ("access_key_id", "secret_access_key", "session_token")


def found() -> Credentials:
    """Return the credentials that there are now. Raises ConfigError if there are none."""
    values = [os.environ.get(f"AWS_{name.upper()}", "") for name in _NAMES]
    if not values[0]:
        values = _shared()
    if not values[0] or not values[1]:
        raise ConfigError(
            "There are no credentials for S3.",
            remedy="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials.",
        )
    return Credentials(*values)


def _shared() -> list[str]:
    path = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "") or "~/.aws/credentials").expanduser()
    profile = os.environ.get("AWS_PROFILE", "") or "default"
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        # What stands on the line is a secret, and the parser's message shows it.
        raise ConfigError(f"{path} cannot be read: {type(error).__name__}.") from None
    return [parser.get(profile, f"aws_{name}", fallback="") for name in _NAMES]
