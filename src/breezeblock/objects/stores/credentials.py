"""Where credentials for S3 are looked for, as Amazon's own programs do.

The environment, then the shared file, then the metadata service of the container or instance.
"""

import configparser
import os
from pathlib import Path

from breezeblock.errors import ConfigError
from breezeblock.objects.stores import metadata
from breezeblock.objects.stores.sigv4 import Credentials

_NAMES = ("access_key_id", "secret_access_key", "session_token")


def found() -> Credentials:
    """Return the credentials that there are now. Raises ConfigError if there are none.

    Where a metadata service is asked it may wait, for some seconds. Raises UnavailableError if that should
    be there and is not.
    """
    values = [os.environ.get(f"AWS_{name.upper()}", "") for name in _NAMES]
    if not values[0]:
        values = _shared()
    if values[0] and values[1]:
        return Credentials(values[0], values[1], values[2])
    lent = metadata.found()
    if lent is None:
        raise ConfigError(
            "There are no credentials for S3.",
            remedy="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials; "
            "or give the instance a role.",
        )
    return lent


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
