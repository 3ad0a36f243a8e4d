"""How clients find us, and which version they get."""

import pytest
from api_world import Client, Server, World


def test_root_offers_the_one_version_with_300(server: Server) -> None:
    answer = server("GET", "/")
    assert answer.status_code == 300
    (version,) = answer.json()["versions"]
    assert set(version) == {"id", "status", "version", "min_version", "updated", "links", "media-types"}
    assert (version["id"], version["status"]) == ("v3.0", "CURRENT")
    assert (version["version"], version["min_version"]) == ("3.71", "3.0")
    assert version["updated"]
    assert {"rel": "self", "href": f"{server.url}/v3/"} in version["links"]


@pytest.mark.parametrize("path", ["/v3", "/v3/"])
def test_v3_is_open_and_says_the_same_with_200(server: Server, path: str) -> None:
    answer = server("GET", path)
    assert answer.status_code == 200
    assert answer.json() == server("GET", "/").json()


def test_links_follow_the_host_header_but_never_echo_nonsense(server: Server) -> None:
    answer = server("GET", "/v3/", headers={"Host": "storage.example:1234"})
    assert answer.json()["versions"][0]["links"][1]["href"] == "http://storage.example:1234/v3/"
    answer = server("GET", "/v3/", headers={"Host": 'x"y'})
    if answer.status_code == 200:  # the HTTP parser may have refused it already
        assert answer.json()["versions"][0]["links"][1]["href"] == f"{server.url}/v3/"


@pytest.mark.parametrize(
    ("headers", "answered"),
    [
        ({}, "3.0"),
        ({"OpenStack-API-Version": "volume 3.27"}, "3.27"),
        ({"OpenStack-API-Version": "block-storage 3.27"}, "3.27"),
        ({"OpenStack-API-Version": "compute 2.1, volume 3.42"}, "3.42"),
        ({"OpenStack-API-Version": "volume latest"}, "3.71"),
        ({"OpenStack-API-Version": "compute 2.90"}, "3.0"),
        ({"X-OpenStack-Volume-API-Version": "3.50"}, "3.50"),
        ({"X-OpenStack-Volume-API-Version": "volume 3.50"}, "3.50"),
        ({"OpenStack-API-Version": "volume 3.71"}, "3.71"),
        ({"OpenStack-API-Version": "volume 3.0"}, "3.0"),
    ],
)
def test_version_is_negotiated_and_echoed(
    member: Client, server: Server, headers: dict[str, str], answered: str
) -> None:
    answer = server("GET", "/v3/volumes", headers={"X-Auth-Token": member.token, **headers})
    assert answer.status_code == 200
    assert answer.headers["OpenStack-API-Version"] == f"volume {answered}"
    assert "OpenStack-API-Version" in answer.headers["Vary"]


@pytest.mark.parametrize("asked", ["3.72", "2.0", "4.0", "3.9999"])
def test_version_out_of_range_is_406(member: Client, asked: str) -> None:
    answer = member.at(asked).get("/volumes")
    assert answer.status_code == 406
    assert answer.json()["computeFault"]["code"] == 406
    message = answer.json()["computeFault"]["message"]
    assert asked in message
    assert "3.0" in message
    assert "3.71" in message


@pytest.mark.parametrize(
    "asked", ["3", "3.x", "x", "3.0.1", "03.1", "3.01", "-3.1", "3.1e1", "3,1", "LATEST"]
)
def test_malformed_version_is_400(member: Client, asked: str) -> None:
    answer = member.at(asked).get("/volumes")
    assert answer.status_code == 400
    assert "MajorNum.MinorNum" in answer.json()["badRequest"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "since"),
    [
        ("GET", "/messages", 3),
        ("GET", "/attachments", 27),
        ("GET", "/volumes/summary", 12),
        ("GET", "/resource_filters", 33),
    ],
)
def test_a_method_is_absent_before_its_version(member: Client, method: str, path: str, since: int) -> None:
    before = member.at(f"3.{since - 1}").call(method, path)
    assert before.status_code == 404
    assert "itemNotFound" in before.json()
    assert member.at(f"3.{since}").call(method, path).status_code == 200


def test_paths_work_with_and_without_project_and_with_a_trailing_slash(member: Client, world: World) -> None:
    volume_id = world.volume()
    for with_project in (True, False):
        member.with_project = with_project
        for tail in ("", "/"):
            assert member.get(f"/volumes/{volume_id}{tail}").status_code == 200
            assert member.get(f"/volumes/detail{tail}").status_code == 200
            assert member.get(f"/os-availability-zone{tail}").status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_an_empty_id_is_not_the_collection(member: Client, method: str) -> None:
    for path in ("/volumes/", "/snapshots/", "/types/"):
        assert member.call(method, path).status_code == 404


def test_another_project_in_the_path_is_400(member: Client, world: World) -> None:
    answer = member.get(f"{member.server.url}/v3/{world.project()}/volumes")
    assert answer.status_code == 400
    assert answer.json()["badRequest"]["message"] == "Malformed request url"


def test_unknown_paths_and_methods(member: Client) -> None:
    assert member.get("/nothing").status_code == 404
    assert member.get("/volumes/a/b/c/d").status_code == 404
    assert member.get(f"{member.server.url}/v2/volumes").status_code == 404
    answer = member.call("PATCH", "/volumes")
    assert answer.status_code == 405
    assert answer.json()["badMethod"]["code"] == 405
    assert "GET" in answer.headers["Allow"]


def test_every_answer_has_a_request_id_in_both_headers(member: Client, server: Server) -> None:
    for answer in (member.get("/volumes"), member.get("/nothing"), server("GET", "/v3/volumes")):
        first = answer.headers["x-openstack-request-id"]
        assert first.startswith("req-")
        assert answer.headers["x-compute-request-id"] == first


def test_without_a_token_the_answer_is_keystones_401(server: Server) -> None:
    for headers in ({}, {"X-Auth-Token": "wrong"}):
        answer = server("GET", "/v3/volumes", headers=headers)
        assert answer.status_code == 401
        assert set(answer.json()["error"]) == {"code", "title", "message"}
        assert answer.headers["WWW-Authenticate"].startswith("Keystone")


def test_head_is_get_without_a_body(member: Client) -> None:
    answer = member.call("HEAD", "/volumes")
    assert answer.status_code == 200
    assert answer.content == b""
    assert int(answer.headers["Content-Length"]) > 0
