"""The part of the Identity API v3 that clients use to log in and to turn names into ids.

What it answers is what openstackclient, openstacksdk, gophercloud and tempest with given accounts were
seen to ask; it is no Keystone. There is one domain, `default`.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from breezeblock.api.errors import HttpError, fault
from breezeblock.api.http import ApiSettings, Reply, decode_object, reply
from breezeblock.errors import (
    BreezeblockError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from breezeblock.identity import users
from breezeblock.identity.tokens import INVALID, Token, Tokens

DOMAIN = {"id": "default", "name": "Default"}
_NAMESPACE = uuid.UUID("6f1d1c52-3f0b-4b52-9e43-0a3b9d7a6c11")
_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Call:
    """A request to the Identity API; `segments` is the path after /identity."""

    method: str
    segments: tuple[str, ...]
    base: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes


class IdentityApi:
    """Answers the Identity API out of our own users and tokens."""

    def __init__(self, tokens: Tokens, settings: ApiSettings) -> None:
        self._tokens = tokens
        self._settings = settings

    def answer(self, call: Call) -> Reply:
        """Answer a call; what goes wrong is told in Keystone's shape."""
        try:
            return self._answer(call)
        except BreezeblockError as error:
            status = _status(error)
            if status == 500:
                return fault(error)
            return _fault(status, str(error))
        except HttpError as error:
            return _fault(error.status, error.message)

    def _answer(self, call: Call) -> Reply:
        reading = call.method in {"GET", "HEAD"}
        match call.segments:
            case () if reading:
                return reply({"versions": {"values": [_version(call.base)]}}, 300)
            case ("v3",) if reading:
                return reply({"version": _version(call.base)})
            case ("v3", "auth", "tokens"):
                return self._auth_tokens(call)
            case ("v3", *_) if not reading:
                raise HttpError(
                    405, f"{call.method} is not allowed here: use the 'breezeblock user' command."
                )
            case ("v3", *rest):
                return self._read(call, self._caller(call), tuple(rest))
        raise HttpError(404, "The resource could not be found.")

    def _read(self, call: Call, caller: Token, path: tuple[str, ...]) -> Reply:
        admin = "admin" in caller.roles
        links = {"self": f"{call.base}/identity/v3/{'/'.join(path)}", "previous": None, "next": None}
        match path:
            case ("auth", "catalog"):
                return reply({"catalog": self._catalog(call.base, caller.project_id), "links": links})
            case ("projects",) | ("auth", "projects"):
                found = users.list_projects(self._tokens.database, call.query.get("name"))
                visible = [p for p in found if (admin and path[0] != "auth") or p.id == caller.project_id]
                return reply({"projects": [_project(p) for p in visible], "links": links})
            case ("projects", project_id):
                project = users.get_project(self._tokens.database, project_id)
                if not admin and project.id != caller.project_id:
                    raise ForbiddenError("You are not authorized to perform the requested action.")
                return reply({"project": _project(project)})
            case ("domains",):
                named = call.query.get("name", DOMAIN["name"])
                found_domains = [_domain()] if named.lower() == "default" else []
                return reply({"domains": found_domains, "links": links})
            case ("domains", "default"):
                return reply({"domain": _domain()})
            case ("users",) | ("users", _):
                return self._users(call, caller, path, links)
        raise NotFoundError(f"Could not find {'/'.join(path)[:200]}.")

    def _users(self, call: Call, caller: Token, path: tuple[str, ...], links: dict[str, Any]) -> Reply:
        if "admin" not in caller.roles and path[1:] != (caller.user_id,):
            raise ForbiddenError("You are not authorized to perform the requested action.")
        found = users.list_users(self._tokens.database, call.query.get("name"))
        if len(path) == 1:
            return reply({"users": [_user(user) for user in found], "links": links})
        for user in found:
            if user.id == path[1]:
                return reply({"user": _user(user)})
        raise NotFoundError(f"Could not find user: {path[1]}.")

    def _auth_tokens(self, call: Call) -> Reply:
        if call.method == "POST":
            secret, token = self._log_in(decode_object(call.body))
            return reply({"token": self._token(call.base, token)}, 201, {"X-Subject-Token": secret})
        if call.method not in {"GET", "HEAD", "DELETE"}:
            raise HttpError(405, f"{call.method} is not allowed here.")
        caller = self._caller(call)
        secret = call.headers.get("x-subject-token", "")
        try:
            subject = self._tokens.check(secret)
        except UnauthenticatedError as error:
            raise NotFoundError("Could not find token.") from error
        if subject.user_id != caller.user_id and "admin" not in caller.roles:
            raise ForbiddenError("You are not authorized to perform the requested action.")
        if call.method == "DELETE":
            self._tokens.revoke(secret)
            return Reply(204)
        return reply({"token": self._token(call.base, subject)}, 200, {"X-Subject-Token": secret})

    def _caller(self, call: Call) -> Token:
        secret = call.headers.get("x-auth-token", "")
        if not secret:
            raise UnauthenticatedError(INVALID)
        return self._tokens.check(secret)

    def _log_in(self, body: dict[str, Any]) -> tuple[str, Token]:
        auth = _object(body, "auth")
        identity = _object(auth, "identity")
        if identity.get("methods") != ["password"]:
            raise UnauthenticatedError("Attempted to authenticate with an unsupported method.")
        user = _object(_object(identity, "password"), "user")
        password = user.get("password")
        if not isinstance(password, str):
            raise InvalidInputError("Expecting to find a string in auth.identity.password.user.password.")
        scope = auth.get("scope")
        project: dict[str, Any] = {}
        if isinstance(scope, dict):
            if "project" not in scope:
                raise UnauthenticatedError("A token can be scoped to a project only.")
            project = _object(scope, "project")
        elif scope is not None and scope != "unscoped":
            raise InvalidInputError("Expecting to find an object or 'unscoped' in auth.scope.")
        for owner in (user, project):
            _check_domain(owner)
        return self._tokens.log_in(
            password,
            user_id=_text(user, "id"),
            user_name=_text(user, "name"),
            project_id=_text(project, "id"),
            project_name=_text(project, "name"),
            unscoped=scope == "unscoped",
        )

    def _token(self, base: str, token: Token) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "methods": ["password"],
            "user": {
                "id": token.user_id,
                "name": token.user_name,
                "domain": DOMAIN,
                "password_expires_at": None,
            },
            "audit_ids": [uuid.uuid5(_NAMESPACE, token.user_id + token.issued_at).hex[:22]],
            "issued_at": f"{token.issued_at}Z",
            "expires_at": f"{token.expires_at}Z",
        }
        if token.project_id is not None:
            shown["project"] = {"id": token.project_id, "name": token.project_name, "domain": DOMAIN}
            shown["is_domain"] = False
            shown["roles"] = [{"id": _id(f"role/{role}"), "name": role} for role in sorted(token.roles)]
            shown["catalog"] = self._catalog(base, token.project_id)
        return shown

    def _catalog(self, base: str, project_id: str | None) -> list[dict[str, Any]]:
        services = [
            ("identity", "keystone", f"{base}/identity/v3"),
            ("block-storage", "cinder", f"{base}/v3"),
        ]
        if project_id is not None:  # for clients older than the official name
            services.append(("volumev3", "cinderv3", f"{base}/v3/{project_id}"))
        region = self._settings.region
        return [
            {
                "id": _id(kind),
                "type": kind,
                "name": name,
                "endpoints": [
                    {
                        "id": _id(f"{kind}/{interface}"),
                        "interface": interface,
                        "region": region,
                        "region_id": region,
                        "url": url,
                    }
                    for interface in ("public", "internal", "admin")
                ],
            }
            for kind, name, url in services
        ]


def _version(base: str) -> dict[str, Any]:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{base}/identity/v3/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }


def _project(project: users.Project) -> dict[str, Any]:
    return {
        "id": project.id,
        "name": project.name,
        "description": project.description,
        "enabled": project.enabled,
        "domain_id": DOMAIN["id"],
        "parent_id": DOMAIN["id"],
        "is_domain": False,
        "tags": [],
        "options": {},
        "links": {},
    }


def _user(user: users.User) -> dict[str, Any]:
    return {
        "id": user.id,
        "name": user.name,
        "enabled": user.enabled,
        "domain_id": DOMAIN["id"],
        "password_expires_at": None,
        "options": {},
        "links": {},
    }


def _domain() -> dict[str, Any]:
    return {**DOMAIN, "description": "", "enabled": True, "tags": [], "options": {}, "links": {}}


def _id(text: str) -> str:
    return uuid.uuid5(_NAMESPACE, text).hex


def _object(parent: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key)
    if not isinstance(value, dict):
        raise InvalidInputError(f"Expecting to find an object in {key}.")
    return value


def _text(parent: Mapping[str, Any], key: str) -> str | None:
    value = parent.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidInputError(f"Expecting to find a string in {key}.")
    return value


def _check_domain(owner: Mapping[str, Any]) -> None:
    domain = owner.get("domain")
    if domain is None:
        return
    if not isinstance(domain, dict):
        raise InvalidInputError("Expecting to find an object in domain.")
    named = domain.get("id") if domain.get("id") is not None else domain.get("name")
    if not isinstance(named, str) or named.lower() != "default":
        raise UnauthenticatedError(INVALID)


def _status(error: BreezeblockError) -> int:
    if isinstance(error, InvalidInputError):
        return 400
    if isinstance(error, UnauthenticatedError):
        return 401
    if isinstance(error, ForbiddenError):
        return 403
    if isinstance(error, NotFoundError):
        return 404
    return 503 if isinstance(error, UnavailableError) else 500


def _fault(status: int, message: str) -> Reply:
    title = _TITLES.get(status, "Error")
    return reply({"error": {"code": status, "title": title, "message": message}}, status)
