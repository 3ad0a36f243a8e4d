"""Records out of the XML that stores list their objects in; nothing else of XML is accepted."""

from xml.parsers import expat

from breezeblock.errors import UnavailableError


def records(data: bytes, name: str) -> list[dict[str, str]]:
    """Return, for each element `name`, its texts by local name; raises UnavailableError if it is no XML.

    What stands outside of records is in a last one under "" in the same way.
    """
    found: list[dict[str, str]] = []
    outside: dict[str, str] = {}
    stack: list[str] = []

    def start(tag: str, _: dict[str, str]) -> None:
        local = tag.rpartition("|")[2]
        stack.append(local)
        if local == name:
            found.append({})
        elif name in stack:
            found[-1].setdefault(local, "")

    def text(data: str) -> None:
        if stack:
            into = found[-1] if name in stack else outside
            into[stack[-1]] = into.get(stack[-1], "") + data

    def refuse(*_: object) -> None:
        raise ValueError("entities are not accepted")

    parser = expat.ParserCreate(namespace_separator="|")
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.CharacterDataHandler = text
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError) as error:
        raise UnavailableError(f"The store's listing is no XML: {error}.") from error
    return [*found, outside]
