"""How a call fails: a code and its parameters, all strings."""


class Failure(Exception):  # noqa: N818 - the API calls it that
    """What the caller is told."""

    def __init__(self, code: str, *params: str) -> None:
        super().__init__(code, *params)
        self.code = code
        self.params = tuple(str(param) for param in params)


class HostDiedError(Exception):
    """The host went away in the middle: the connection is closed without an answer."""


SM_TEXT = {
    37: "Failed to lock",
    40: "The SR scan failed",
    44: "There is insufficient space",
    46: "The VDI is not available",
    47: "The SR is not available",
    78: "VDI Creation failed",
    79: "VDI Invalid size",
    82: "Failed to snapshot VDI",
    96: "The request is missing or has an incorrect target IQN parameter",
    101: "The request is missing the serverpath parameter",
    102: "The request is missing the server parameter",
    107: "The SCSIid parameter is missing or incorrect",
    109: "The snapshot chain is too long",
    115: "A required parameter is missing",
    1200: "generic python exception",
}


def backend(number: int, detail: str = "", stderr: str = "") -> Failure:
    """Return the failure that a storage plug-in's error becomes."""
    text = SM_TEXT.get(number, "Storage error")
    return Failure(
        f"SR_BACKEND_FAILURE_{number}", "", f"{text} [opterr={detail}]" if detail else text, stderr
    )
