"""The Identity API, and the other ways to say who one is."""

import datetime as dt
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from api_world import Server, serving, still_service

from breezeblock.identity import make_authenticator, users
from breezeblock.service.core import Service

PASSWORD = "correct horse 🐎 battery"


@pytest.fixture(scope="module")
def service_with_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = still_service(tmp_path_factory.mktemp("users"))
    database = service.database
    users.create_user(database, "alice", PASSWORD, project="demo", roles=["member"])
    users.create_user(database, "root", PASSWORD, project="admin", roles=["admin"])
    users.create_user(database, "rita", PASSWORD, project="demo", roles=["reader"])
    yield service
    database.dispose()


@pytest.fixture(scope="module")
def here(service_with_users: Service) -> Iterator[Server]:
    with serving(service_with_users) as found:
        yield found


def credentials(user: str, password: str = PASSWORD, scope: Any = None, **project: Any) -> dict[str, Any]:
    auth: dict[str, Any] = {
        "identity": {
            "methods": ["password"],
            "password": {"user": {"name": user, "domain": {"id": "default"}, "password": password}},
        }
    }
    if project:
        auth["scope"] = {"project": project}
    if scope is not None:
        auth["scope"] = scope
    return {"auth": auth}


def log_in(here: Server, user: str, **kwargs: Any) -> requests.Response:
    return here("POST", "/identity/v3/auth/tokens", json=credentials(user, **kwargs))


def test_discovery(here: Server) -> None:
    answer = here("GET", "/identity")
    assert answer.status_code == 300
    (version,) = answer.json()["versions"]["values"]
    for path in ("/identity/v3", "/identity/v3/"):
        answer = here("GET", path)
        assert answer.status_code == 200
        assert answer.json()["version"] == version
    assert version["id"].startswith("v3")
    assert version["status"] == "stable"
    assert version["links"][0]["href"] == f"{here.url}/identity/v3/"


def test_a_token_and_its_catalog(here: Server) -> None:
    answer = log_in(here, "alice", name="demo", domain={"name": "Default"})
    assert answer.status_code == 201
    secret = answer.headers["X-Subject-Token"]
    assert len(secret) >= 43  # 256 bits
    token = answer.json()["token"]
    assert token["methods"] == ["password"]
    assert token["user"]["name"] == "alice"
    assert token["user"]["domain"] == {"id": "default", "name": "Default"}
    assert token["project"]["name"] == "demo"
    assert uuid.UUID(token["project"]["id"]).hex == token["project"]["id"]
    assert [role["name"] for role in token["roles"]] == ["member", "reader"]
    for field in ("issued_at", "expires_at"):
        dt.datetime.strptime(token[field], "%Y-%m-%dT%H:%M:%S.%fZ")  # noqa: DTZ007 - as tempest does
    assert token["audit_ids"]
    urls = {
        entry["type"]: {endpoint["interface"]: endpoint["url"] for endpoint in entry["endpoints"]}
        for entry in token["catalog"]
    }
    assert urls["identity"]["public"] == f"{here.url}/identity/v3"
    assert urls["block-storage"]["public"] == f"{here.url}/v3"
    assert urls["volumev3"]["internal"] == f"{here.url}/v3/{token['project']['id']}"
    assert set(urls["volumev3"]) == {"public", "internal", "admin"}
    volumes = requests.get(
        f"{urls['volumev3']['public']}/volumes", headers={"X-Auth-Token": secret}, timeout=30
    )
    assert volumes.status_code == 200


def test_scopes(here: Server) -> None:
    scoped = log_in(here, "alice").json()["token"]  # the default project
    project_id = scoped["project"]["id"]
    assert log_in(here, "alice", id=project_id).json()["token"]["project"]["id"] == project_id
    unscoped = log_in(here, "alice", scope="unscoped")
    assert "project" not in unscoped.json()["token"]
    headers = {"X-Auth-Token": unscoped.headers["X-Subject-Token"]}
    assert here("GET", "/v3/volumes", headers=headers).status_code == 401
    assert here("GET", "/identity/v3/projects", headers=headers).status_code == 200
    assert log_in(here, "alice", name="admin").status_code == 401
    assert log_in(here, "alice", name="nowhere").status_code == 401
    assert log_in(here, "alice", scope={"system": {"all": True}}).status_code == 401


def test_wrong_credentials_all_look_alike(here: Server) -> None:
    answers = [
        log_in(here, "alice", password="wrong"),
        log_in(here, "nobody", password="wrong"),
        log_in(here, "alice", password=""),
        log_in(here, "alice", password="x" * 5000),
        log_in(here, "alice", name="nowhere"),
    ]
    for answer in answers:
        assert answer.status_code == 401
        assert answer.json() == answers[0].json()
        assert set(answer.json()["error"]) == {"code", "title", "message"}


@pytest.mark.parametrize(
    "body",
    [{}, {"auth": 1}, {"auth": {}}, {"auth": {"identity": {}}},
     {"auth": {"identity": {"methods": "password"}}},
     {"auth": {"identity": {"methods": ["token"], "token": {"id": "x"}}}},
     {"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": 1, "password": "x"}}}}},
     {"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": "alice"}}}}},
     {"auth": {"identity": {"methods": ["password"], "password": {"user": {"password": "x"}}}}},
     credentials("alice", scope=7), credentials("alice", scope={"project": 1}), credentials("a\0b"),
     credentials("alice", name="demo", domain="x")],
)  # fmt: skip
def test_malformed_logins(here: Server, body: dict[str, Any]) -> None:
    answer = here("POST", "/identity/v3/auth/tokens", json=body)
    assert answer.status_code in {400, 401}
    assert set(answer.json()["error"]) == {"code", "title", "message"}


def test_checking_and_revoking(here: Server) -> None:
    alice, root = (log_in(here, name).headers["X-Subject-Token"] for name in ("alice", "root"))
    rita = log_in(here, "rita").headers["X-Subject-Token"]
    path = "/identity/v3/auth/tokens"
    own = here("GET", path, headers={"X-Auth-Token": alice, "X-Subject-Token": alice})
    assert own.status_code == 200
    assert own.json()["token"]["user"]["name"] == "alice"
    by_admin = here("GET", path, headers={"X-Auth-Token": root, "X-Subject-Token": alice})
    assert by_admin.json()["token"]["catalog"] == own.json()["token"]["catalog"]
    assert here("HEAD", path, headers={"X-Auth-Token": root, "X-Subject-Token": alice}).status_code == 200
    assert here("GET", path, headers={"X-Auth-Token": rita, "X-Subject-Token": alice}).status_code == 403
    assert here("GET", path, headers={"X-Auth-Token": root, "X-Subject-Token": "x"}).status_code == 404
    assert here("GET", path, headers={"X-Auth-Token": "x", "X-Subject-Token": alice}).status_code == 401
    gone = here("DELETE", path, headers={"X-Auth-Token": alice, "X-Subject-Token": alice})
    assert gone.status_code == 204
    assert here("GET", "/v3/volumes", headers={"X-Auth-Token": alice}).status_code == 401


def test_names_to_ids(here: Server) -> None:
    answer = log_in(here, "root")
    admin = {"X-Auth-Token": answer.headers["X-Subject-Token"]}
    assert here("GET", "/identity/v3/projects/demo", headers=admin).status_code == 404
    (demo,) = here("GET", "/identity/v3/projects?name=demo", headers=admin).json()["projects"]
    shown = here("GET", f"/identity/v3/projects/{demo['id']}", headers=admin).json()["project"]
    assert shown == demo
    assert {p["name"] for p in here("GET", "/identity/v3/projects", headers=admin).json()["projects"]} == {
        "admin",
        "demo",
    }
    assert len(here("GET", "/identity/v3/users", headers=admin).json()["users"]) == 3
    (found,) = here("GET", "/identity/v3/users?name=alice", headers=admin).json()["users"]
    assert not any("password" in key and key != "password_expires_at" for key in found)
    alice = {"X-Auth-Token": log_in(here, "alice").headers["X-Subject-Token"]}
    assert [p["name"] for p in here("GET", "/identity/v3/projects", headers=alice).json()["projects"]] == [
        "demo"
    ]
    assert here("GET", "/identity/v3/users", headers=alice).status_code == 403
    assert here("GET", "/identity/v3/projects").status_code == 401
    assert here("POST", "/identity/v3/projects", headers=admin, json={}).status_code == 405
    assert here("GET", "/identity/v3/nothing", headers=admin).status_code == 404
    assert here("GET", "/identity/v2", headers=admin).status_code == 404


def test_the_bare_address_is_an_auth_url_too(here: Server) -> None:
    answer = here("POST", "/v3/auth/tokens", json=credentials("alice"))
    assert answer.status_code == 201


def test_a_new_password_ends_tokens(service_with_users: Service, here: Server) -> None:
    database = service_with_users.database
    users.create_user(database, "temp", PASSWORD, project="demo")
    answer = log_in(here, "temp")
    headers = {"X-Auth-Token": answer.headers["X-Subject-Token"], "X-Subject-Token": "x"}
    users.set_password(database, "temp", "another")
    assert log_in(here, "temp").status_code == 401
    assert here("GET", "/identity/v3/auth/tokens", headers=headers).status_code == 401
    users.delete_user(database, "temp")
    assert log_in(here, "temp", password="another").status_code == 401


def test_http_basic(service_with_users: Service) -> None:
    authenticator = make_authenticator(service_with_users.database, "http_basic")
    with serving(service_with_users, authenticator) as here:
        alice = requests.auth.HTTPBasicAuth(b"alice", PASSWORD.encode())
        assert here("GET", "/v3/volumes", auth=alice).status_code == 200
        project_id = users.list_projects(service_with_users.database, "demo")[0].id
        other_id = users.list_projects(service_with_users.database, "admin")[0].id
        assert here("GET", f"/v3/{project_id}/volumes", auth=alice).status_code == 200
        assert here("GET", f"/v3/{other_id}/volumes", auth=alice).status_code == 400
        for wrong in (
            {"auth": requests.auth.HTTPBasicAuth(b"alice", b"wrong")},
            {"auth": requests.auth.HTTPBasicAuth(b"nobody", PASSWORD.encode())},
            {"headers": {"Authorization": "Basic !!!"}},
            {"headers": {"Authorization": "Basic YWxpY2U="}},
            {"headers": {"Authorization": "Bearer x"}},
            {"headers": {"X-Auth-Token": "x"}},
            {},
        ):
            answer = here("GET", "/v3/volumes", **wrong)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Basic")
        rita = requests.auth.HTTPBasicAuth(b"rita", PASSWORD.encode())
        assert here("POST", "/v3/volumes", auth=rita, json={"volume": {"size": 1}}).status_code == 403
        assert here("GET", "/identity/v3").status_code == 404


def test_no_authentication_and_the_tokens_of_cinders_noauth(service_with_users: Service) -> None:
    with serving(service_with_users, make_authenticator(service_with_users.database, "none")) as here:
        made = here("POST", "/v3/volumes", json={"volume": {"size": 1}})
        assert made.status_code == 202
        assert here("GET", "/v3/os-services").status_code == 200
        project_id = uuid.uuid4().hex
        token = {"X-Auth-Token": f"gopher:{project_id}"}
        made = here("POST", f"/v3/{project_id}/volumes", headers=token, json={"volume": {"size": 1}})
        assert made.status_code == 202
        assert made.json()["volume"]["user_id"] == "gopher"
        assert len(here("GET", "/v3/volumes", headers=token).json()["volumes"]) == 1
        # gophercloud puts the token's project into the path whatever it looks like
        named = {"X-Auth-Token": "gopher:my project"}
        assert here("GET", "/v3/my%20project/volumes", headers=named).json() == {"volumes": []}
        assert here("GET", "/v3/other/volumes", headers=named).status_code == 404
        assert here("GET", "/v3/volumes", headers={"X-Auth-Token": f"u:{'x' * 100}"}).status_code == 401
