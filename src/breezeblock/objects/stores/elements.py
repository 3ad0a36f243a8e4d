"""Records out of the XML that stores list their objects in; nothing else of XML is accepted."""

from xml.parsers import expat

from breezeblock.errors import UnavailableError
from breezeblock.objects.stores.port import Item

MAX_DEPTH = 16


def records(data: bytes, name: str) -> list[dict[str, str]]:
    """Return, for each element `name`, its texts by local name; raises UnavailableError if it is no XML.

    What stands outside of records is in a last one under "" in the same way.
    """
    found: list[dict[str, list[str]]] = []
    outside: dict[str, list[str]] = {}
    stack: list[str] = []

    def start(tag: str, _: dict[str, str]) -> None:
        local = tag.rpartition("|")[2]
        stack.append(local)
        if len(stack) > MAX_DEPTH:
            raise ValueError(f"over {MAX_DEPTH} elements within each other")
        if local == name:
            found.append({})
        elif name in stack:
            found[-1].setdefault(local, [])

    def text(data: str) -> None:
        if stack:
            into = found[-1] if name in stack else outside
            into.setdefault(stack[-1], []).append(data)

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
    return [{local: "".join(texts) for local, texts in one.items()} for one in (*found, outside)]


def item(record: dict[str, str], prefix: str, key: str, length: str, tag: str) -> Item:
    """Return the object that a record of a listing is about, its key without the prefix of all.

    `key`, `length` and `tag` are the elements' names. Raises UnavailableError for what is no such record.
    """
    name, said = record.get(key, ""), record.get(length, "")
    if len(name) <= len(prefix) or not name.startswith(prefix):
        raise UnavailableError(f"The store's listing has {name[:80]!a} for a key under {prefix!r}.")
    if not said.isascii() or not said.isdigit() or len(said) > 18:
        raise UnavailableError(f"The store's listing has {said[:80]!a} for a length.")
    return Item(name[len(prefix) :], int(said), record.get(tag, ""))
