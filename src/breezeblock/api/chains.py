"""`/chains`: through how many layers volumes are read, and which rest on which."""

from breezeblock.api import inputs
from breezeblock.api.http import Reply, Request, reply
from breezeblock.api.routing import Endpoint
from breezeblock.service import layers


def index(request: Request) -> Reply:
    """List the volumes of more than one layer or with clones, and what is kept of deleted ones."""
    wanted = request.query.get("all_tenants")
    everyone = wanted is not None and inputs.flag("all_tenants", wanted)
    found = layers.families(request.service, request.caller, all_projects=everyone)
    return reply({"chains": found})


ENDPOINTS = (Endpoint("GET", "/chains", index),)
