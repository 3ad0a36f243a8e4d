"""Actions on a volume: `POST /volumes/{id}/action` with one key that names the action."""

from collections.abc import Callable
from typing import Any

from msgspec import Raw

from breezeblock.api import inputs
from breezeblock.api.http import Reply, Request, reply
from breezeblock.api.routing import Endpoint
from breezeblock.errors import InvalidInputError, NotFoundError
from breezeblock.service import details, layers, legacy_attach, lists, managing, marks, volumes
from breezeblock.service.details import Metadata

Action = Callable[[Request, str, dict[str, Any]], Reply]


def act(request: Request) -> Reply:
    """Run the action that the body's one key names."""
    name, argument = one_action(request)
    found = _ACTIONS.get(name)
    if found is None or not request.at_least(found[0]):
        raise InvalidInputError(f"There is no such action: {name[:64]}.")
    return found[1](request, request.params["id"], argument)


def one_action(request: Request) -> tuple[str, dict[str, Any]]:
    """Return the one key of the body and the object under it; null and empty count as no argument."""
    body = request.json()
    if len(body) != 1:
        raise InvalidInputError("The request body must have exactly one key, the name of an action.")
    name, argument = next(iter(body.items()))
    if argument is None or argument == "":
        argument = {}
    if not isinstance(argument, dict):
        raise inputs.refuse(name[:64], argument, "It must be an object.")
    return name, argument


def _extend(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    volumes.extend(
        request.service,
        request.caller,
        volume_id,
        inputs.gibibytes("new_size", argument.get("new_size")),
    )
    return Reply(202)


def _unmanage(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    inputs.only(argument, ())
    managing.unmanage(request.service, request.caller, volume_id)
    return Reply(202)


def _reset_status(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    inputs.only(argument, ("status", "attach_status", "migration_status"))
    values = {key: inputs.name(key, value) for key, value in argument.items() if value is not None}
    if not values:
        raise InvalidInputError("Must specify 'status', 'attach_status' or 'migration_status' for update.")
    marks.reset_status(
        request.service,
        request.caller,
        volume_id,
        status=values.get("status"),
        attach_status=values.get("attach_status"),
        migration_status=values.get("migration_status"),
    )
    return Reply(202)


def _set_bootable(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    bootable = inputs.flag("bootable", argument.get("bootable"))
    marks.set_bootable(request.service, request.caller, volume_id, bootable)
    return Reply(200)


def _set_readonly(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    readonly = inputs.flag("readonly", argument.get("readonly"))
    marks.set_readonly(request.service, request.caller, volume_id, readonly)
    return Reply(202)


def _flatten(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    inputs.only(argument, ())
    layers.flatten(request.service, request.caller, volume_id)
    return Reply(202)


def _shorten(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    inputs.only(argument, ())
    layers.shorten(request.service, request.caller, volume_id)
    return Reply(202)


def _revert(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    snapshot_id = inputs.identifier("snapshot_id", argument.get("snapshot_id"))
    volumes.revert(request.service, request.caller, volume_id, snapshot_id)
    return Reply(202)


def _force_delete(request: Request, volume_id: str, _argument: dict[str, Any]) -> Reply:
    volumes.force_delete(request.service, request.caller, volume_id)
    return Reply(202)


def _reserve(request: Request, volume_id: str, _argument: dict[str, Any]) -> Reply:
    legacy_attach.reserve(request.service, request.caller, volume_id)
    return Reply(202)


def _unreserve(request: Request, volume_id: str, _argument: dict[str, Any]) -> Reply:
    legacy_attach.unreserve(request.service, request.caller, volume_id)
    return Reply(202)


def _begin_detaching(request: Request, volume_id: str, _argument: dict[str, Any]) -> Reply:
    legacy_attach.begin_detaching(request.service, request.caller, volume_id)
    return Reply(202)


def _roll_detaching(request: Request, volume_id: str, _argument: dict[str, Any]) -> Reply:
    legacy_attach.roll_detaching(request.service, request.caller, volume_id)
    return Reply(202)


def _initialize_connection(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    connector = check_connector(argument.get("connector"))
    info = legacy_attach.initialize_connection(request.service, request.caller, volume_id, connector)
    return reply({"connection_info": info})


def _terminate_connection(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    connector = argument.get("connector")
    connector = {} if connector is None else check_connector(connector)
    legacy_attach.terminate_connection(request.service, request.caller, volume_id, connector)
    return Reply(202)


def _attach(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    instance_id = inputs.optional_identifier("instance_uuid", argument.get("instance_uuid"))
    host_name = inputs.name("host_name", argument.get("host_name")) or None
    mode = check_mode(argument.get("mode"))
    if instance_id is None and host_name is None:
        raise InvalidInputError("Must specify either instance_uuid or host_name.")
    legacy_attach.attach(
        request.service,
        request.caller,
        volume_id,
        instance_id=instance_id,
        host_name=host_name,
        mountpoint=inputs.name("mountpoint", argument.get("mountpoint"), required=True) or "",
        mode=mode,
    )
    return Reply(202)


def _detach(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    attachment_id = inputs.optional_identifier("attachment_id", argument.get("attachment_id"))
    legacy_attach.detach(request.service, request.caller, volume_id, attachment_id)
    return Reply(202)


def _force_detach(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    attachment_id = inputs.optional_identifier("attachment_id", argument.get("attachment_id"))
    legacy_attach.detach(request.service, request.caller, volume_id, attachment_id, force=True)
    return Reply(202)


def _set_image_metadata(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    given = inputs.pairs("metadata", inputs.member(argument, "metadata"))
    found = details.change_image_metadata(
        request.service, request.caller, volume_id, lambda old: {**old, **given}
    )
    return reply({"metadata": found})


def _unset_image_metadata(request: Request, volume_id: str, argument: dict[str, Any]) -> Reply:
    key = inputs.name("key", argument.get("key"), required=True)

    def without(old: Metadata) -> Metadata:
        if key not in old:
            raise NotFoundError(f"Volume {volume_id} has no image metadata with key {key}.")
        return {name: value for name, value in old.items() if name != key}

    details.change_image_metadata(request.service, request.caller, volume_id, without)
    return Reply(200)


def _show_image_metadata(request: Request, volume_id: str, _argument: dict[str, Any]) -> Reply:
    row, _ = lists.volume(request.service, request.caller, volume_id)
    return reply({"metadata": Raw(row.image_metadata)})


def check_connector(value: object) -> dict[str, Any]:
    """Check the description of a host: an object that names it."""
    if not isinstance(value, dict):
        raise inputs.refuse("connector", value, "It must be an object.")
    inputs.name("connector.host", value.get("host"))
    inputs.name("connector.mountpoint", value.get("mountpoint"))
    return value


def check_mode(value: object) -> str | None:
    """Check how a volume is attached."""
    if value is None or value == "null":
        return None
    if value not in {"ro", "rw"}:
        raise inputs.refuse("mode", value, "It must be 'ro' or 'rw'.")
    return str(value)


_ACTIONS: dict[str, tuple[int, Action]] = {
    "os-extend": (0, _extend),
    "os-reset_status": (0, _reset_status),
    "os-set_bootable": (0, _set_bootable),
    "os-update_readonly_flag": (0, _set_readonly),
    "revert": (40, _revert),
    "breezeblock-flatten": (0, _flatten),
    "breezeblock-shorten": (0, _shorten),
    "os-force_delete": (0, _force_delete),
    "os-unmanage": (0, _unmanage),
    "os-force_detach": (0, _force_detach),
    "os-reserve": (0, _reserve),
    "os-unreserve": (0, _unreserve),
    "os-begin_detaching": (0, _begin_detaching),
    "os-roll_detaching": (0, _roll_detaching),
    "os-initialize_connection": (0, _initialize_connection),
    "os-terminate_connection": (0, _terminate_connection),
    "os-attach": (0, _attach),
    "os-detach": (0, _detach),
    "os-set_image_metadata": (0, _set_image_metadata),
    "os-unset_image_metadata": (0, _unset_image_metadata),
    "os-show_image_metadata": (0, _show_image_metadata),
}

ACTIONS = tuple(sorted(_ACTIONS))

ENDPOINTS = (Endpoint("POST", "/volumes/{id}/action", act, waits=True),)
