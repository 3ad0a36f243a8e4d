"""Paging, sorting, filtering."""

from urllib.parse import parse_qs, urlsplit

import pytest
from api_world import Client, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def names(client: Client, path: str) -> list[str]:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return [volume["name"] for volume in answer.json()["volumes"]]


@pytest.fixture
def five(world: World) -> list[str]:
    return [
        world.volume(name=name, created_at=f"2026-01-0{day}T00:00:00.000000", virtual_bytes=gib << 30)
        for day, (name, gib) in enumerate([("e", 1), ("d", 2), ("c", 2), ("b", 1), ("a", 3)], 1)
    ]


def test_newest_first_by_default(member: Client, five: list[str]) -> None:
    assert names(member, "/volumes") == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("query", "order"),
    [
        ("sort=name:desc", "edcba"),
        ("sort=name:asc", "abcde"),
        ("sort=name", "edcba"),
        ("sort=size:asc,name:asc", "becda"),
        ("sort=size:asc,name:desc", "ebdca"),
        ("sort=created_at:asc", "edcba"),
        ("sort_key=name&sort_dir=asc", "abcde"),
        ("sort_key=display_name&sort_dir=asc", "abcde"),
        ("sort_dir=asc", "edcba"),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_every_order_pages_without_gap_or_repeat(
    member: Client, five: list[str], query: str, order: str, limit: int
) -> None:
    found, path = [], f"/volumes/detail?{query}&limit={limit}"
    for _ in range(len(order) + 2):
        answer = member.get(path).json()
        found += [volume["name"] for volume in answer["volumes"]]
        if "volumes_links" not in answer:
            break
        (link,) = answer["volumes_links"]
        assert link["rel"] == "next"
        path = link["href"]
    assert "".join(found) == order


def test_the_next_link_keeps_the_query_and_the_form_of_the_path(member: Client, five: list[str]) -> None:
    answer = member.get("/volumes?limit=2&sort=name:asc&offset=1").json()
    assert [volume["name"] for volume in answer["volumes"]] == ["b", "c"]
    parts = urlsplit(answer["volumes_links"][0]["href"])
    assert parts.path == f"/v3/{member.project_id}/volumes"
    assert parse_qs(parts.query) == {"limit": ["2"], "sort": ["name:asc"], "marker": [five[2]]}
    member.with_project = False
    link = member.get("/volumes?limit=2").json()["volumes_links"][0]["href"]
    assert urlsplit(link).path == "/v3/volumes"


def test_limits_and_offsets(member: Client, five: list[str]) -> None:
    answer = member.get("/volumes?limit=0").json()
    assert answer == {"volumes": []}
    assert names(member, "/volumes?offset=3") == ["d", "e"]
    assert names(member, "/volumes?offset=99") == []
    assert len(names(member, "/volumes?limit=99999999999999999999")) == 5
    for bad in (
        "limit=-1",
        "limit=x",
        "limit=1.5",
        "limit=",
        "offset=-1",
        "offset=x",
        "offset=9999999999999",
    ):
        answer = member.get(f"/volumes?{bad}")
        assert answer.status_code == 400, bad
        assert bad.split("=")[0] in answer.json()["badRequest"]["message"]


@pytest.mark.parametrize(
    "path", ["/volumes", "/volumes/detail", "/snapshots", "/attachments", "/messages", "/types"]
)
def test_unknown_marker_is_404_and_named(member: Client, path: str) -> None:
    for marker in ("6a3b3f0a-0000-4000-8000-000000000000", "no-uuid"):
        answer = member.get(f"{path}?marker={marker}")
        assert answer.status_code == 404
        assert marker in answer.json()["itemNotFound"]["message"]


def test_a_strangers_marker_is_unknown(member: Client, world: World) -> None:
    theirs = world.volume(project_id=world.project())
    assert member.get(f"/volumes?marker={theirs}").status_code == 404


def test_the_names_of_links_are_irregular(member: Client, world: World) -> None:
    volume_id = world.volume()
    world.snapshot(volume_id)
    world.attachment(volume_id)
    world.message()
    for path, key, links in (
        ("/volumes", "volumes", "volumes_links"),
        ("/snapshots", "snapshots", "snapshots_links"),
        ("/snapshots/detail", "snapshots", "snapshots_links"),
        ("/messages", "messages", "messages_links"),
        ("/types", "volume_types", "volume_type_links"),
    ):
        answer = member.get(f"{path}?limit=1").json()
        assert set(answer) == {key, links}
        assert len(answer[key]) == 1
    assert set(member.get("/attachments?limit=1").json()) == {"attachments"}


def test_sorting_mistakes(member: Client) -> None:
    for bad in ("sort=name&sort_key=name", "sort=nope", "sort=name:up", "sort_dir=up", "sort_key=metadata"):
        assert member.get(f"/volumes?{bad}").status_code == 400, bad
    assert member.at("3.29").get("/snapshots?sort=name").status_code == 400
    assert member.at("3.30").get("/snapshots?sort=name").status_code == 200


def test_with_count(member: Client, five: list[str]) -> None:
    answer = member.get("/volumes?with_count=true&limit=2").json()
    assert (answer["count"], len(answer["volumes"])) == (5, 2)
    assert member.get("/volumes/detail?with_count=True&size=2").json()["count"] == 2
    assert "count" not in member.get("/volumes?with_count=false").json()
    assert "count" not in member.at("3.30").get("/volumes?with_count=true").json()
    assert member.get("/volumes?with_count=perhaps").status_code == 400


def test_absent_names_sort_and_page(member: Client, world: World) -> None:
    for name in (None, "a", None, "b"):
        world.volume(name=name)
    path, found = "/volumes?sort=name:asc&limit=1", []
    for _ in range(4):
        answer = member.get(path).json()
        found += [volume["name"] for volume in answer["volumes"]]
        path = answer["volumes_links"][0]["href"]
    assert found == [None, None, "a", "b"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("name=a", "a"),
        ("display_name=a", "a"),
        ("size=2", "cd"),
        ("status=available", "abcde"),
        ("status=error", ""),
        ("availability_zone=nova", "abcde"),
        ("bootable=true", ""),
        ("bootable=False", "abcde"),
        ("consumes_quota=true", "abcde"),
        ("consumes_quota=false", ""),
        ("group_id=x", ""),
        ("migration_status=", "abcde"),
        ("created_at=gt:2026-01-03T00:00:00", "ab"),
        ("created_at=gte:2026-01-03T00:00:00", "abc"),
        ("created_at=lt:2026-01-03T00:00:00Z,gt:2026-01-01T00:00:00%2B00:00", "d"),
        ("created_at=eq:2026-01-03", "c"),
        ("created_at=neq:2026-01-03T00:00:00", "abde"),
        ("created_at=lte:2026-01-01T01:00:00%2B01:00", "e"),
        ("name~=A", ""),
        ("name~=c", "c"),
        ("status~=vail", "abcde"),
        ("name~=%25", ""),
        ("all_tenants=1&name=a", "a"),
    ],
)
def test_filters(member: Client, five: list[str], query: str, found: str) -> None:
    if query == "name~=A" and "a" in "".join(names(member, "/volumes?name~=A")):
        found = "a"  # LIKE ignores the case of ASCII letters in SQLite, not in PostgreSQL
    assert "".join(sorted(names(member, f"/volumes?{query}"))) == found


def test_metadata_filters(member: Client, world: World) -> None:
    world.volume(name="one", metadata='{"k":"v","with \\"quotes\\"":"x"}')
    world.volume(name="two", metadata='{"k":"w","l":"v"}')
    for query, found in (
        ("metadata={'k':'v'}", ["one"]),
        ('metadata={"k":"w"}', ["two"]),
        ("metadata={'k':'w','l':'v'}", ["two"]),
        ("metadata={'k':'v','l':'v'}", []),
        ("metadata={'with \"quotes\"':'x'}", ["one"]),
        ("metadata={}", ["one", "two"]),
    ):
        assert sorted(names(member, f"/volumes?{query}")) == found, query
    for bad in (
        "metadata=x",
        "metadata=[1]",
        "metadata={'a':",
        "metadata=__import__('os')",
        "metadata=(((((",
    ):
        assert member.get(f"/volumes?{bad}").status_code == 400


def test_unknown_filters_are_dropped_then_refused(member: Client, admin: Client, five: list[str]) -> None:
    assert len(names(member.at("3.30"), "/volumes?shape=round")) == 5
    answer = member.at("3.31").get("/volumes?shape=round")
    assert answer.status_code == 400
    assert "'shape'" in answer.json()["badRequest"]["message"]
    # What only an admin may filter by
    assert member.get("/volumes?host=x").status_code == 400
    assert names(admin, "/volumes?host=test@disk%23pool") == ["a", "b", "c", "d", "e"]
    assert names(admin, "/volumes?host=test@other%23pool") == []
    # ~ is a part of the name before 3.34
    assert member.at("3.33").get("/volumes?name~=a").status_code == 400
    assert member.get("/volumes?size=huge").status_code == 400
    assert member.get("/volumes?size=99999999999999999999").status_code == 400
    assert member.get("/volumes?created_at=gt:yesterday").status_code == 400
    assert member.get("/volumes?bootable=perhaps").status_code == 400
    assert member.at("3.1").get("/volumes?bootable=perhaps").status_code == 200


def test_all_tenants_is_an_admins(member: Client, admin: Client, world: World) -> None:
    theirs = world.volume(project_id=world.project())
    assert theirs not in [v["id"] for v in member.get("/volumes?all_tenants=1").json()["volumes"]]
    assert theirs in [v["id"] for v in admin.get("/volumes?all_tenants=1").json()["volumes"]]
    assert theirs not in [v["id"] for v in admin.get("/volumes").json()["volumes"]]
    assert admin.get("/volumes?all_tenants=perhaps").status_code == 400


def test_snapshot_and_attachment_filters(member: Client, world: World) -> None:
    one, two = world.volume(), world.volume()
    snapshot_id = world.snapshot(one, name="s1", metadata='{"a":"b"}')
    world.snapshot(two, name="s2", status="error")
    attachment_id = world.attachment(one)
    for query in (f"volume_id={one}", "name=s1", "status=available", "metadata={'a':'b'}", "name~=1"):
        found = member.get(f"/snapshots?{query}").json()["snapshots"]
        assert [s["id"] for s in found] == [snapshot_id], query
    assert len(member.get("/snapshots?availability_zone=nova").json()["snapshots"]) == 2
    assert member.get("/snapshots?availability_zone=mars").json()["snapshots"] == []
    for query in (f"volume_id={one}", "attach_status=attached", "status=attached"):
        found = member.get(f"/attachments?{query}").json()["attachments"]
        assert [a["id"] for a in found] == [attachment_id], query


def test_summary(member: Client, world: World, five: list[str]) -> None:
    world.volume(metadata='{"k":"v"}')
    world.volume(metadata='{"k":"w","l":"x"}')
    found = member.get("/volumes/summary").json()["volume-summary"]
    assert found == {"total_count": 7, "total_size": 11, "metadata": {"k": ["v", "w"], "l": ["x"]}}
    found = member.at("3.35").get("/volumes/summary").json()["volume-summary"]
    assert set(found) == {"total_count", "total_size"}


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(["/volumes/detail", "/snapshots/detail", "/attachments", "/messages", "/types",
                          "/operations", "/limits", "/volumes/summary", "/os-availability-zone"]),
    query=st.dictionaries(
        st.one_of(
            st.sampled_from(
                ["limit", "marker", "offset", "sort", "sort_key", "sort_dir", "name", "name~", "size",
                 "metadata", "created_at", "bootable", "status~", "with_count", "all_tenants", "volume_id",
                 "is_public", "extra_specs", "state", "project_id", "host"]
            ),
            st.text(max_size=20),
        ),
        st.one_of(
            st.text(max_size=40),
            st.integers().map(str),
            st.sampled_from(["{'a':'b'}", "gt:2026-01-01", "1"]),
        ),
        max_size=5,
    ),
    minor=st.integers(0, 71),
)  # fmt: skip
def test_no_query_breaks_a_list(
    member: Client, admin: Client, path: str, query: dict[str, str], minor: int
) -> None:
    for client in (member, admin):
        answer = client.at(f"3.{minor}").get(path, params=query)
        assert answer.status_code in {200, 400, 404}, (query, answer.text)
        assert answer.headers["Content-Type"] == "application/json"
