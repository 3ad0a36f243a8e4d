"""Images through HTTP: what is refused at the door, and the images that pools keep."""

import pytest
from test_api_managing import Place, place

__all__ = ["place"]  # a fixture

IMAGE = {"url": "https://example.org/x", "format": "qcow2"}


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ({**IMAGE, "url": "file:///etc/passwd"}, "allowed"),
        ({**IMAGE, "url": "s3://images/x"}, "allowed"),
        ({**IMAGE, "url": 7}, "string"),
        ({**IMAGE, "format": "vmdk"}, "not supported"),
        ({**IMAGE, "checksum": "md5:0"}, "sha256"),
        ({**IMAGE, "secret": "x"}, "secret"),
    ],
)
def test_what_may_not_be_brought_in_is_refused_at_once(
    place: Place, image: dict[str, object], why: str
) -> None:
    wanted = {"volume_import": {"image": image, "volume": {"size": 1}}}
    answer = place.admin.post("/volume_imports", wanted)
    assert answer.status_code == 400, answer.text
    assert why in answer.text


def test_the_images_that_pools_keep_are_an_administrators(place: Place) -> None:
    assert place.admin.get("/cached_images").json() == {"cached_images": []}
    absent = "/cached_images/11111111-2222-4333-8444-555555555555"
    assert place.admin.delete(absent).status_code == 404
    member = place.world.client("member")
    assert member.get("/cached_images").status_code == 403
    assert member.delete(absent).status_code == 403
