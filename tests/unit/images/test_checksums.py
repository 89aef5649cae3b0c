"""Lists of checksums, as publishers write them, and as they should not."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from osprovider.errors import ImageError
from osprovider.images.sources.signatures import Checksum, find_checksum, parse_checksum

NAME = "image.qcow2"
CONTENT = b"content"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHA512 = hashlib.sha512(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
LIST = "https://cloud.example.org/SHA256SUMS"
BESIDE = f"https://cloud.example.org/{NAME}.sha256"


def find(text: str, *, where: str = LIST) -> Checksum:
    return find_checksum(text.encode(), NAME, where=where)


def refusal(text: str, *, where: str = LIST) -> str:
    with pytest.raises(ImageError) as caught:
        find(text, where=where)
    return str(caught.value)


@pytest.mark.parametrize("tool", ["sha256sum", "sha512sum"])
@pytest.mark.parametrize("option", ["--text", "--binary", "--tag"])
def test_lists_of_coreutils_are_read(tool: str, option: str, tmp_path: Path) -> None:
    for name in (f"a-{NAME}", NAME, f"{NAME}.zst", "b"):
        (tmp_path / name).write_bytes(CONTENT if name == NAME else name.encode())
    names = sorted(path.name for path in tmp_path.iterdir())
    listed = subprocess.run([tool, option, *names], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    algorithm = tool.removesuffix("sum")
    assert find(listed) == Checksum(algorithm, hashlib.new(algorithm, CONTENT).hexdigest())


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_lists_of_openssl_are_read(algorithm: str, tmp_path: Path) -> None:
    """Which calls them SHA2-256 and SHA2-512, since its version 3."""
    (tmp_path / NAME).write_bytes(CONTENT)
    words = ["openssl", "dgst", f"-{algorithm}", NAME]
    listed = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert find("\ufeff" + listed.replace("\n", "\r\n")) == Checksum(
        algorithm, hashlib.new(algorithm, CONTENT).hexdigest()
    )


@pytest.mark.parametrize(
    "text",
    [
        f"{SHA256}  {NAME}\n",
        f"{SHA256} *{NAME}",
        f"{SHA256}\t{NAME}\r\n",
        f"{SHA256.upper()}  {NAME}\n",
        f"{SHA256}  ./{NAME}\n",
        f"{SHA256}  images/{NAME}\n",
        f"SHA256 ({NAME}) = {SHA256}\n",
        f"SHA256({NAME})= {SHA256}\n",
        f"# {NAME}: 7 bytes\nSHA256 ({NAME}) = {SHA256}\n",
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{SHA256}  {NAME}\n-----BEGIN PGP SIGNATURE-----\n",
        f"{OTHER}  images/{NAME}\n{SHA256}  {NAME}\n",
        f"{SHA256}  {NAME}\n{SHA256}  {NAME}\n",
        f"MD5 ({NAME}) = {'0' * 32}\nSHA1 ({NAME}) = {'0' * 40}\nSHA256 ({NAME}) = {SHA256}\n",
        f"SHA3-256 ({NAME}) = {OTHER}\nSHA256 ({NAME}) = {SHA256}\n",
        f"\ufeffcaption\n{SHA256}  {NAME}\n",
    ],
)
def test_an_image_is_found_in_a_list(text: str) -> None:
    assert find(text) == Checksum("sha256", SHA256)


def test_headings_say_what_digests_are() -> None:
    """As Gentoo has them: BLAKE2b is as long as SHA-512."""
    blake = hashlib.blake2b(CONTENT).hexdigest()
    listed = f"# BLAKE2B HASH\n{blake}  {NAME}\n# SHA512 HASH\n{SHA512}  {NAME}\n"
    assert find(listed) == Checksum("sha512", SHA512)
    assert find(listed.replace("BLAKE2B", "WHIRLPOOL")) == Checksum("sha512", SHA512)


def test_the_strongest_of_several_counts() -> None:
    assert find(f"SHA256 ({NAME}) = {SHA256}\nSHA512 ({NAME}) = {SHA512}\n") == Checksum("sha512", SHA512)


def test_blake_of_the_same_length_is_not_taken_for_sha512() -> None:
    blake = hashlib.blake2b(CONTENT).hexdigest()
    assert find(f"BLAKE2b ({NAME}) = {blake}\nSHA256 ({NAME}) = {SHA256}\n") == Checksum("sha256", SHA256)


@pytest.mark.parametrize("text", [SHA256, f"{SHA256}\n", f"{SHA256}  {NAME}\n", f"{SHA256}  image-build7.qcow2\n"])
def test_a_list_beside_the_image_is_the_images(text: str) -> None:
    assert find(text, where=BESIDE) == Checksum("sha256", SHA256)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>404</html>",
        f"{SHA256}  other.qcow2\n{OTHER}  another.qcow2\n",
        f"{SHA256}  {NAME}.zst\n",
        f"{SHA256}  a-{NAME}\n",
        f"{SHA256[:-1]}  {NAME}\n",
        f"{SHA256}0  {NAME}\n",
        f"SHA3-256 ({NAME}) = {SHA256}\n",
        f"SHA512 ({NAME}) = {SHA256}\n",
    ],
)
def test_a_list_without_the_image_is_refused(text: str) -> None:
    assert f"{LIST}: {NAME} is not among its " in refusal(text)


def test_a_list_beside_the_image_that_has_several_others_is_refused() -> None:
    assert "is not among its 2 checksums" in refusal(f"{SHA256}  one\n{OTHER}  two\n", where=BESIDE)


def test_two_different_checksums_of_an_image_are_refused() -> None:
    assert "2 different sha256 checksums" in refusal(f"{SHA256}  {NAME}\n{OTHER}  {NAME}\n")
    assert "2 different sha256 checksums" in refusal(f"{SHA256}\n{OTHER}\n", where=BESIDE)


@pytest.mark.parametrize(("digits", "named"), [("0" * 32, "MD5"), ("0" * 40, "SHA1")])
def test_weak_checksums_alone_are_refused(digits: str, named: str) -> None:
    assert f"has only {named} of {NAME}, which can be forged" in refusal(f"{digits}  {NAME}\n")


@pytest.mark.parametrize("text", [f"sha256:{SHA256}", f"sha512:{SHA512}"])
def test_a_checksum_of_a_definition_is_read(text: str) -> None:
    assert str(parse_checksum(text)) == text


@pytest.mark.parametrize("text", ["SHA512SUMS", "https://cloud.example.org/SHA512SUMS", "/srv/images/list", "md5:00"])
def test_a_place_is_no_checksum(text: str) -> None:
    assert parse_checksum(text) is None
