"""Images of servers that have to verify: of what does not, nothing is kept."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
from pathlib import Path

import pytest

from osprovider.config.model import Image
from osprovider.errors import ImageError
from osprovider.images.sources.obtain import Sources
from osprovider.paths import Directories
from tests.support.http_server import Page, Server, cut, endless, lie, redirect, status
from tests.unit.images.sources.obtaining import (
    CHANGED,
    CONTENT,
    SHA256,
    SHA512,
    assert_kept,
    kept,
    obtain,
    pull,
    refusal,
)


@pytest.mark.parametrize("checksum", [f"sha256:{SHA256}", f"sha512:{SHA512}"])
def test_the_checksum_of_a_definition_is_held_to(sources: Sources, image: Image, checksum: str) -> None:
    pin = obtain(sources, dataclasses.replace(image, checksums=checksum)).pin
    assert (pin.expected, pin.verified) == (checksum, f"{checksum[:6]} of the definition")


def test_with_the_checksum_in_the_definition_there_is_nothing_to_ask(
    sources: Sources, image: Image, server: Server
) -> None:
    checked = dataclasses.replace(image, checksums=f"sha512:{SHA512}")
    before = pull(sources, checked)
    assert pull(sources, checked) == before
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SHA256SUMS", f"{'0' * 64}  other\n{SHA256} *image.qcow2\n"),
        ("SHA512SUMS", f"{SHA512}  image.qcow2\n"),
        ("CHECKSUM", f"SHA256 (image.qcow2) = {SHA256}\n"),
        ("image.qcow2.sha256", f"{SHA256}\n"),
        ("../SHA256SUMS", f"{SHA256}  ./images/image.qcow2\n"),
        ("/SHA256SUMS", f"{SHA256}  image.qcow2\n"),
    ],
)
def test_a_list_beside_the_image_is_held_to(
    sources: Sources, image: Image, server: Server, name: str, text: str
) -> None:
    path = os.path.normpath(f"/images/{name}") if not name.startswith("/") else name
    server.pages[path] = Page(text.encode())
    checked = dataclasses.replace(image, checksums=name)
    assert obtain(sources, checked).pin.verified == name.rpartition("/")[2]
    assert [request.path for request in server.requests] == [path, "/images/image.qcow2"]


def test_a_list_says_whether_there_are_news(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    server.pages["/images/SHA256SUMS"] = Page(f"{SHA256}  image.qcow2\n".encode())
    checked = dataclasses.replace(image, checksums="SHA256SUMS")
    pull(sources, checked)
    pull(sources, checked)
    assert len(server.asked("/images/image.qcow2")) == 1
    server.pages["/images/SHA256SUMS"] = Page(f"{hashlib.sha256(CHANGED).hexdigest()}  image.qcow2\n".encode())
    server.pages["/images/image.qcow2"] = Page(CHANGED, etag='"2"')
    pull(sources, checked)
    assert_kept(directories, CHANGED)


def test_the_name_in_a_list_is_the_decoded_one(sources: Sources, server: Server) -> None:
    server.pages["/my%20image.qcow2?today"] = Page(CONTENT)
    server.pages["/SHA256SUMS"] = Page(f"{SHA256}  my image.qcow2\n".encode())
    obtain(sources, Image(source=f"{server.url}/my%20image.qcow2?today", checksums="SHA256SUMS"))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("misdeed", [None, lie(1000), redirect("/other")], ids=["changed", "short", "other"])
def test_nothing_is_kept_of_what_does_not_verify(
    sources: Sources, image: Image, server: Server, directories: Directories, algorithm: str, misdeed: object
) -> None:
    page = server.pages["/images/image.qcow2"]
    page.always = misdeed  # type: ignore[assignment]
    if misdeed is None:
        page.content = CHANGED
    server.pages["/other"] = Page(b"<html>welcome to our hotel</html>")
    wanted = SHA256 if algorithm == "sha256" else SHA512
    checked = dataclasses.replace(image, checksums=f"{algorithm}:{wanted}")
    assert f"image.qcow2: has {algorithm} " in refusal(sources, checked)
    assert kept(directories) == []


def test_nothing_is_kept_of_what_does_not_verify_after_it_was_interrupted(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    server.pages["/images/image.qcow2"] = Page(CHANGED, misdeeds=[cut(1000), cut(0)])
    checked = dataclasses.replace(image, checksums=f"sha256:{SHA256}")
    with pytest.raises(ImageError, match="the connection ended after 1000 of"):
        pull(sources, checked)
    assert [Path(name).suffix for name in kept(directories)] == [".part", ".json"]
    assert "has sha256" in refusal(sources, checked)
    assert server.requests[2].headers["range"] == "bytes=1000-"
    assert kept(directories) == []


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (Page(b""), "SHA256SUMS: image.qcow2 is not among its 0 checksums"),
        (Page(f"{SHA256}  other\n{SHA256}  another\n".encode()), "image.qcow2 is not among its 2 checksums"),
        (Page(f"{SHA256}  image.qcow2\n{'0' * 64}  image.qcow2\n".encode()), "2 different sha256 checksums"),
        (Page(f"{'0' * 32}  image.qcow2\n".encode()), "has only MD5"),
        (Page(always=status(404)), "SHA256SUMS: the server answers 404"),
        (Page(always=status(500)), "SHA256SUMS: the server answers 500"),
        (Page(gzip.compress(b""), headers={"Content-Encoding": "gzip"}), "SHA256SUMS: the server sends it as gzip"),
        (Page(always=endless), "SHA256SUMS: larger than 4.0 MiB, which is too much for a list"),
        (Page(b"", always=redirect("file:///etc/passwd")), "which is less safe"),
    ],
)
def test_without_its_checksum_nothing_is_fetched(
    sources: Sources, image: Image, server: Server, directories: Directories, page: Page, message: str
) -> None:
    server.pages["/images/SHA256SUMS"] = page
    assert message in refusal(sources, dataclasses.replace(image, checksums="SHA256SUMS"))
    assert server.asked("/images/image.qcow2") == []
    assert kept(directories) == []


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (Page(b""), "image.qcow2: empty, 0 bytes"),
        (Page(always=status(404)), "image.qcow2: the server answers 404 Not Found: correct the address"),
        (Page(always=status(500)), "image.qcow2: the server answers 500 Internal Server Error, 2 times in a row"),
        (Page(always=endless), "image.qcow2: larger than 2.0 MiB, the max_size of the definition"),
        (Page(always=lie(3 << 20)), "image.qcow2: larger than 2.0 MiB"),
    ],
)
def test_nothing_is_kept_of_what_was_not_sent(
    sources: Sources, image: Image, server: Server, directories: Directories, page: Page, message: str
) -> None:
    server.pages["/images/image.qcow2"] = page
    assert message in refusal(sources, dataclasses.replace(image, max_size="2MiB"))
    assert kept(directories) == []


def test_what_was_there_stays_where_the_new_does_not_verify(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    server.pages["/images/SHA256SUMS"] = Page(f"{SHA256}  image.qcow2\n".encode())
    checked = dataclasses.replace(image, checksums="SHA256SUMS")
    before = pull(sources, checked)
    server.pages["/images/SHA256SUMS"] = Page(f"{'0' * 64}  image.qcow2\n".encode())
    with pytest.raises(ImageError, match="has sha256"):
        pull(sources, checked)
    assert obtain(sources, checked).pin == before
    assert_kept(directories, CONTENT)


def test_what_may_be_secret_is_neither_said_nor_recorded(
    sources: Sources, server: Server, directories: Directories, capsys: pytest.CaptureFixture[str]
) -> None:
    server.pages["/image?token=word"] = Page(CONTENT, misdeeds=[status(500), status(404)])
    server.pages["/list?token=word"] = Page(f"{SHA256}  image\n".encode(), misdeeds=[status(500), status(404)])
    source = f"{server.url.replace('//', '//user:word@')}/image?token=word"
    image = Image(source=source, checksums="list?token=word")
    messages = []
    for _ in range(2):
        with pytest.raises(ImageError) as caught:
            pull(sources, image)
        messages.append(str(caught.value))
    assert [message.split(": ")[0] for message in messages] == [f"{server.url}/list", f"{server.url}/image"]
    pin = obtain(sources, image).pin
    assert (pin.location, pin.verified) == (f"{server.url}/image", "list")
    assert server.requests[-1].headers["authorization"].startswith("Basic ")
    recorded = "".join((directories.cache / name).read_text() for name in kept(directories) if name.endswith(".json"))
    assert "word" not in "".join(messages) + capsys.readouterr().err + recorded
