from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breezeblock.errors import ConfigError
from breezeblock.shares import sharelist
from breezeblock.shares.sharelist import NFS, Share


def read(tmp_path: Path, text: str | bytes) -> tuple[Share, ...]:
    path = tmp_path / "shares"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return sharelist.read(path, NFS)


def test_a_file_with_everything_allowed(tmp_path: Path) -> None:
    text = """# our filers

    filer1:/vol/a
\t# indented comment
filer1.example.org:/vol/b -o vers=3,nolock   # with options
[2001:db8::10]:/vol/c\t-o vers=4.2 -o nconnect=4
192.0.2.7:/with\\040two\\040spaces#and-a-hash
under_score:/
windows:/line\r
"""
    assert read(tmp_path, text) == (
        Share("filer1:/vol/a"),
        Share("filer1.example.org:/vol/b", "vers=3,nolock"),
        Share("[2001:db8::10]:/vol/c", "vers=4.2,nconnect=4"),
        Share("192.0.2.7:/with two spaces#and-a-hash"),
        Share("under_score:/"),
        Share("windows:/line"),
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("filer", "is no NFS share"),
        ("filer:export", "is no NFS share"),
        ("/local/dir", "does not begin with a host"),
        ("//filer/smb", "does not begin with a host"),
        ("-o:/x", "does not begin with a host"),
        ("2001:db8::1:/x", "is no NFS share"),
        ("[2001:db8::zz]:/x", "is no IPv6 address"),
        ("[2001:db8::1:/x", "does not begin with a host"),
        ("[2001:db8::1]/x", "is no NFS share"),
        ("filer:/a/../b", "'.' or '..'"),
        ("filer:/a b", "after the address"),
        ("filer:/a vers=3", "after the address"),
        ("filer:/a -o", "after the address"),
        ("filer:/a -overs=3", "after the address"),
        ("filer:/a -o vers=3 rw", "after the address"),
        ("filer:/a -o vers=3,,rw", "is no mount option"),
        ("filer:/a -o =3", "is no mount option"),
        ("filer:/a -o é", "is no mount option"),
        ("filer:/a\x07b", "control character"),
        ("filer:/a\x9bb", "control character"),
        ("filer:/" + "a" * 4100, "over 4096 characters"),
    ],
)
def test_a_bad_line_names_file_line_text_and_form(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"good:/share\n\n{line}\n")
    assert f"{tmp_path / 'shares'} line 3: " in caught.value.message
    assert says in caught.value.message
    assert repr(line[:20])[1:-1] in caught.value.message
    assert "ADDRESS [-o OPTION" in caught.value.remedy


def test_all_bad_lines_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "one\ngood:/x\ntwo\n")
    assert "line 1: " in caught.value.message
    assert "line 3: " in caught.value.message


@pytest.mark.parametrize(
    "line",
    [
        "filer:/a -o username=u,password=s3cret",
        "filer:/a -o pass=s3cret, with spaces s3cret",
        "//filer/a username=u,PassWord = s3cret,more=s3cret",
        "filer password=s3cret:/x",
        "password=s3cret",
        "filer:/a -o credentials=s3cret,,",
    ],
)
def test_secrets_are_never_repeated(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError) as caught:  # if for nothing else: it is there twice
        read(tmp_path, f"{line}\n{line}\n")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("filer:/a", "filer:/a"),
        ("filer:/a", "FILER:/a/"),
        ("filer:/a/b", "filer:/a//b -o vers=3"),
        ("[2001:db8::1]:/a", "[2001:DB8:0::1]:/a"),
    ],
)
def test_the_same_share_twice_is_refused(tmp_path: Path, first: str, second: str) -> None:
    with pytest.raises(ConfigError, match=r"line 2: the share .* is already named in .* line 1"):
        read(tmp_path, f"{first}\n{second}\n")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent cannot be read: No such file"):
        sharelist.read(tmp_path / "absent", NFS)
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        sharelist.read(tmp_path, NFS)
    with pytest.raises(ConfigError, match="names no share"):
        read(tmp_path, "# nothing\n\n")
    with pytest.raises(ConfigError, match=r"not UTF-8 text in line 2"):
        read(tmp_path, b"ok:/a\n\xff:/b\n")
    with pytest.raises(ConfigError, match="over 1048576 bytes"):
        read(tmp_path, b"#" * (1 << 20) + b"##")


def test_inline_strings() -> None:
    assert sharelist.inline(["a:/b -o vers=3 # why"], "backends.x.shares", NFS) == (Share("a:/b", "vers=3"),)
    with pytest.raises(ConfigError, match=r"backends\.x\.shares\[1\]: there is no share"):
        sharelist.inline(["a:/b", " # only a comment"], "backends.x.shares", NFS)
    with pytest.raises(ConfigError, match="control character"):
        sharelist.inline(["a:/b\nc:/d"], "backends.x.shares", NFS)


hosts = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True) | st.ip_addresses(v=6).map(
    lambda ip: f"[{ip}]"
)
parts = st.text(
    st.characters(blacklist_categories=("C", "Z"), blacklist_characters="/#\\"), min_size=1, max_size=10
).filter(lambda part: part not in {".", ".."})
paths = st.lists(st.lists(parts, min_size=1, max_size=2).map(" ".join), max_size=4).map(
    lambda found: "/" + "/".join(found)
)
options = st.lists(st.from_regex(r"[a-z]{1,8}(=[a-z0-9:.]{1,8})?", fullmatch=True), max_size=4).map(",".join)
comments = st.sampled_from(["", " # why", "\t#"])


@given(
    st.lists(st.tuples(hosts, paths, options, comments), min_size=1, max_size=6, unique_by=lambda row: row[0])
)
def test_what_is_written_is_read(rows: list[tuple[str, str, str, str]]) -> None:
    lines = [
        f"  {host}:{path.replace(' ', chr(92) + '040')}{' -o ' + opts if opts else ''}{comment}"
        for host, path, opts, comment in rows
    ]
    assert sharelist.inline(lines, "x", NFS) == tuple(
        Share(f"{host}:{path}", opts) for host, path, opts, _ in rows
    )


@given(st.text(max_size=200))
def test_any_line_is_a_clean_share_or_a_clear_error(line: str) -> None:
    found, problem = attempt(lambda: sharelist.inline([line], "x", NFS))
    assert problem.startswith("x[0]: ") or len(found) == 1
    for share in found:
        assert not share.address.startswith("-"), "it will be an argument of a program"
        assert ":/" in share.address
        assert not share.options.startswith("-")


@given(st.binary(max_size=300))
def test_any_bytes_as_a_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz-shares"
    path.write_bytes(data)
    found, problem = attempt(lambda: sharelist.read(path, NFS))
    assert found or str(path) in problem


def attempt(parse: Callable[[], tuple[Share, ...]]) -> tuple[tuple[Share, ...], str]:
    try:
        return parse(), ""
    except ConfigError as error:
        return (), error.message
