"""Images in S3, against a real S3 server; the signature is judged by another implementation."""

import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib import parse

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.credentials
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from breezeblock.attempt import Attempt
from breezeblock.errors import CancelledOperationError, ConfigError, InvalidInputError
from breezeblock.images import addresses, remote, s3

KEY, SECRET = "AKIAEXAMPLE", "a/secret+key"
PART = 5 << 20  # the least that S3 takes
CONTENT = os.urandom(2 * PART + 12345)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    logging.getLogger("werkzeug").disabled = True  # it would write to a stream that is closed by then
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def bucket(endpoint: str) -> Any:
    service = boto3.resource(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    )
    service.create_bucket(Bucket="secret")
    return service.create_bucket(Bucket="images")


@pytest.fixture
def policy(endpoint: str, bucket: Any, tmp_path: Path) -> addresses.Policy:
    (tmp_path / "credentials").write_text(f"{KEY}\n{SECRET}\n")
    store = addresses.S3(
        endpoint=endpoint,
        region="us-east-1",
        credentials_file=str(tmp_path / "credentials"),
        buckets=("images",),
    )
    return addresses.Policy(schemes=("s3",), s3=store, timeout_s=5)


ATTEMPT = Attempt(operation_id="o", token="t")


def test_an_image_goes_out_and_comes_in(policy: addresses.Policy, bucket: Any, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    told: list[tuple[int, int]] = []
    attempt = Attempt(operation_id="o", token="t", progress=lambda done, total: told.append((done, total)))
    url = "s3://images/a%20b/ü+%25.raw"
    remote.send(tmp_path / "x", url, policy, attempt)
    assert [one.key for one in bucket.objects.all()] == ["a b/ü+%.raw"]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    remote.fetch(url, tmp_path / "y", policy, attempt)
    assert (tmp_path / "y").read_bytes() == CONTENT
    before = remote.validator(url, policy)
    assert before
    (tmp_path / "x").write_bytes(b"another")
    remote.send(tmp_path / "x", url, policy, attempt)
    assert remote.validator(url, policy) not in {"", before}
    bucket.objects.delete()


def test_it_is_fetched_on_from_where_it_was(policy: addresses.Policy, bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Key="image", Body=CONTENT)
    went = []
    attempt = Attempt(operation_id="o", token="t", progress=lambda done, _total: went.append(done))
    (tmp_path / "y").write_bytes(CONTENT[:PART])
    (tmp_path / "y.tag").write_text(remote.validator("s3://images/image", policy))
    remote.fetch("s3://images/image", tmp_path / "y", policy, attempt)
    assert (tmp_path / "y").read_bytes() == CONTENT
    assert went[0] > PART
    # Another object under the key: nothing of the old one is kept.
    (tmp_path / "y").write_bytes(b"old" * PART)
    (tmp_path / "y.tag").write_text('"0123456789abcdef0123456789abcdef"')
    remote.fetch("s3://images/image", tmp_path / "y", policy, attempt)
    assert (tmp_path / "y").read_bytes() == CONTENT
    bucket.objects.delete()


def uploads(bucket: Any) -> list[Any]:
    return list(bucket.multipart_uploads.all())


@pytest.mark.parametrize("stop_at", range(0, len(CONTENT) + 1, 3 << 20))
def test_an_upload_in_parts_goes_on_or_is_abandoned(
    policy: addresses.Policy, bucket: Any, tmp_path: Path, stop_at: int
) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    went: list[int] = []

    def told(done: int) -> None:
        went.append(done)
        if len(went) and done >= stop_at and stopping:
            raise CancelledOperationError("stop")

    url = "s3://images/large"
    stopping = True
    with pytest.raises(CancelledOperationError):
        s3.send(tmp_path / "x", url, policy, told, part_bytes=PART)
    assert len(uploads(bucket)) == 1
    stopping = False
    went.clear()
    s3.send(tmp_path / "x", url, policy, told, part_bytes=PART)
    assert went[0] == stop_at // PART * PART or stop_at % PART == 0
    assert bucket.Object("large").get()["Body"].read() == CONTENT
    # Killed before it heard that the upload was completed.
    s3.send(tmp_path / "x", url, policy, told, part_bytes=PART)
    assert uploads(bucket) == []
    bucket.objects.delete()
    (tmp_path / "x.parts").unlink()
    stopping = True
    with pytest.raises(CancelledOperationError):
        s3.send(tmp_path / "x", url, policy, told, part_bytes=PART)
    remote.abandon(tmp_path / "x", url, policy, "o")
    remote.abandon(tmp_path / "x", url, policy, "o")
    assert uploads(bucket) == []
    assert list(bucket.objects.all()) == []


def test_an_upload_is_cancelled(policy: addresses.Policy, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    looks = iter([False, False, True])
    attempt = Attempt(operation_id="o", token="t", cancelled=lambda: next(looks))
    with pytest.raises(CancelledOperationError):
        remote.send(tmp_path / "x", "s3://images/x", policy, attempt)


@pytest.mark.parametrize(
    "url",
    [
        "s3://secret/x",
        "s3://images",
        "s3://images/",
        "s3://images/../secret/x",
        "s3://images/%2e%2e/secret/x",
        "s3://images//x",
        "s3://images/x?versionId=1",
        "s3://images:80/x",
        "s3://key:secret@images/x",
        "s3:///images/x",
    ],
)
def test_only_the_named_buckets(url: str, policy: addresses.Policy, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        remote.fetch(url, tmp_path / "x", policy, ATTEMPT)
    with pytest.raises(InvalidInputError):
        addresses.check(url, msgspec.structs.replace(policy, s3=None))


def test_what_is_not_there_says_so_without_secrets(policy: addresses.Policy, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="404") as refused:
        remote.fetch("s3://images/absent", tmp_path / "x", policy, ATTEMPT)
    assert "Signature" not in str(refused.value)
    assert KEY not in str(refused.value)
    (tmp_path / "credentials").write_text(SECRET)
    with pytest.raises(ConfigError) as unreadable:
        remote.fetch("s3://images/absent", tmp_path / "x", policy, ATTEMPT)
    assert SECRET not in str(unreadable.value)
    assert SECRET not in repr(policy)


@settings(max_examples=60)
@given(
    key=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40).filter(
        lambda key: not {"", ".", ".."} & set(key.split("/"))
    ),
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
    query=st.dictionaries(
        st.sampled_from(["uploads", "uploadId", "partNumber"]), st.text("aZ0-9=/+~ é", max_size=20)
    ),
    moment=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001 - made aware below
)
def test_the_signature_is_that_of_another_implementation(
    tmp_path_factory: pytest.TempPathFactory,
    key: str,
    method: str,
    query: dict[str, str],
    moment: datetime,
) -> None:
    credentials = tmp_path_factory.getbasetemp() / "credentials"
    credentials.write_text(f"{KEY}\n{SECRET}\n")
    store = addresses.S3(
        endpoint="https://s3.example.org:9000",
        region="eu-central-1",
        credentials_file=str(credentials),
        buckets=("images",),
    )
    moment = moment.replace(tzinfo=UTC)
    ours = s3.signed(store, method, f"s3://images/{parse.quote(key)}", query, moment)
    judge = botocore.auth.S3SigV4QueryAuth(
        botocore.credentials.Credentials(KEY, SECRET), "s3", "eu-central-1", expires=s3.VALID_S
    )
    asked = botocore.awsrequest.AWSRequest(
        method, f"{store.endpoint}/images/{parse.quote(key, safe='/-_.~')}", params=query
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(botocore.auth, "get_current_datetime", lambda: moment.replace(tzinfo=None))
        judge.add_auth(asked)
    theirs = parse.parse_qs(parse.urlsplit(asked.url).query, keep_blank_values=True)
    assert parse.parse_qs(parse.urlsplit(ours).query, keep_blank_values=True) == theirs
    assert parse.urlsplit(ours).path == parse.urlsplit(asked.url).path
