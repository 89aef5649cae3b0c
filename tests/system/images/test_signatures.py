"""Signatures of lists, made by gpg(1): the good ones are believed, and every other one is refused with its cause."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from osprovider.errors import ImageError
from osprovider.images.sources import signatures
from tests.support.openpgp import Keys, making_keys

LIST = b"%s  image.qcow2\n- a line with a dash\n" % (b"0" * 64)
WHERE = "https://cloud.example.org/SHA256SUMS.sign"


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    with making_keys(tmp_path / "gpg") as keys:
        yield keys


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "SHA256SUMS"
    path.write_bytes(LIST)
    return path


def ring(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "ring"
    path.write_bytes(content)
    return path


def refusal(text: bytes, signature: bytes | None, keyring: Path) -> str:
    with pytest.raises(ImageError) as caught:
        signatures.verify(text, signature, keyring, where=WHERE)
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize("armour", [False, True], ids=["binary-ring", "armoured-ring"])
@pytest.mark.parametrize("options", [(), ("--armor",)], ids=["binary-signature", "armoured-signature"])
def test_a_detached_signature_is_believed(
    keys: Keys, text: Path, tmp_path: Path, armour: bool, options: tuple[str, ...]
) -> None:
    fingerprint = keys.make("publisher")
    signature = keys.sign(text, "publisher", options=options)
    found = signatures.verify(LIST, signature, ring(tmp_path, keys.export(armour=armour)), where=WHERE)
    assert found == (LIST, fingerprint)


def test_a_list_that_is_signed_in_place_is_believed(keys: Keys, text: Path, tmp_path: Path) -> None:
    fingerprint = keys.make("publisher")
    signed = keys.sign(text, "publisher", how="--clearsign")
    assert b"\n- - a line" in signed
    found = signatures.verify(signed, None, ring(tmp_path, keys.export()), where=WHERE)
    assert found == (LIST, fingerprint)


def test_what_stands_around_the_signed_text_is_not_part_of_it(keys: Keys, text: Path, tmp_path: Path) -> None:
    keys.make("publisher")
    forged = b"%s  image.qcow2\n" % (b"f" * 64)
    signed = forged + keys.sign(text, "publisher", how="--clearsign") + forged
    found, _ = signatures.verify(signed, None, ring(tmp_path, keys.export()), where=WHERE)
    assert found == LIST


def test_the_fingerprint_is_the_primary_keys(keys: Keys, text: Path, tmp_path: Path) -> None:
    fingerprint = keys.make("publisher")
    keys.gpg("--quick-add-key", fingerprint, "ed25519", "sign", "never")
    found = signatures.verify(LIST, keys.sign(text, "publisher"), ring(tmp_path, keys.export()), where=WHERE)
    assert found == (LIST, fingerprint)


@pytest.mark.parametrize("by", ["first", "second"])
@pytest.mark.parametrize("armour", [False, True], ids=["binary", "armoured"])
def test_each_key_of_a_ring_is_trusted(keys: Keys, text: Path, tmp_path: Path, by: str, armour: bool) -> None:
    for name in ("first", "second"):
        keys.make(name)
    both = keys.export("first", armour=armour) + keys.export("second", armour=armour)
    found = signatures.verify(LIST, keys.sign(text, by), ring(tmp_path, both), where=WHERE)
    assert found == (LIST, keys.fingerprint(by))


@pytest.mark.parametrize(
    "change",
    [
        lambda armoured: b"The key of Example, see https://example.org:\n\n" + armoured,
        lambda armoured: armoured.replace(b"\n", b"\r\n"),
        lambda armoured: armoured.replace(b"BLOCK-----\n", b"BLOCK-----\nVersion: 1\nComment: a key\n", 1),
        lambda armoured: armoured.replace(b"BLOCK-----\n\n", b"BLOCK-----\nComment: a key\n \t\n", 1),
        lambda armoured: armoured.rstrip(),
    ],
    ids=["text-before", "crlf", "headers", "blanks", "no-newline"],
)
def test_armour_is_read_as_publishers_write_it(keys: Keys, text: Path, tmp_path: Path, change: object) -> None:
    assert callable(change)
    keys.make("publisher")
    keyring = ring(tmp_path, change(keys.export(armour=True)))
    signatures.verify(LIST, keys.sign(text, "publisher"), keyring, where=WHERE)


def test_another_signature_beside_a_good_one_does_not_matter(keys: Keys, text: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        keys.make(name)
    both = keys.sign(text, "second", "first")
    keyring = ring(tmp_path, keys.export("first"))
    assert signatures.verify(LIST, both, keyring, where=WHERE) == (LIST, keys.fingerprint("first"))


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["--detach-sign", "--clearsign"])
def test_a_key_that_is_not_in_the_ring(keys: Keys, text: Path, tmp_path: Path, how: str) -> None:
    for name in ("publisher", "somebody"):
        keys.make(name)
    signed = keys.sign(text, "somebody", how=how)
    keyring = ring(tmp_path, keys.export("publisher"))
    message = refusal(signed, None, keyring) if how == "--clearsign" else refusal(LIST, signed, keyring)
    assert message.startswith(f"{WHERE}: signed by {keys.fingerprint('somebody')[-16:]}, and {keyring} has no such key")


def test_a_list_that_was_changed(keys: Keys, text: Path, tmp_path: Path) -> None:
    keys.make("publisher")
    keyring = ring(tmp_path, keys.export())
    changed = LIST.replace(b"0", b"1", 1)
    assert "it was changed" in refusal(changed, keys.sign(text, "publisher"), keyring)
    signed = keys.sign(text, "publisher", how="--clearsign")
    assert "it was changed" in refusal(signed.replace(b"\n0", b"\n1", 1), None, keyring)


@pytest.mark.parametrize("signature", [b"", b"<html>404</html>", LIST], ids=["none", "page", "list"])
def test_what_is_no_signature(keys: Keys, tmp_path: Path, signature: bytes) -> None:
    keys.make("publisher")
    assert "no OpenPGP signature" in refusal(LIST, signature, ring(tmp_path, keys.export()))


def test_a_signature_that_is_damaged(keys: Keys, text: Path, tmp_path: Path) -> None:
    keys.make("publisher")
    keyring = ring(tmp_path, keys.export())
    signature = keys.sign(text, "publisher")
    for damaged in (signature[:-1], signature[:5], signature[:-1] + bytes([signature[-1] ^ 1])):
        assert refusal(LIST, damaged, keyring).startswith(f"{WHERE}: ")


def test_a_list_that_is_not_signed_in_place_though_it_should(keys: Keys, text: Path, tmp_path: Path) -> None:
    keys.make("publisher")
    keyring = ring(tmp_path, keys.export())
    assert "no OpenPGP signature" in refusal(LIST, None, keyring)
    assert "no OpenPGP signature" in refusal(keys.sign(text, "publisher", how="--sign"), None, keyring)
    assert "no OpenPGP signature" in refusal(b"-----BEGIN PGP SIGNED MESSAGE-----\n\n" + LIST, None, keyring)


def test_a_key_that_has_expired(keys: Keys, text: Path, tmp_path: Path) -> None:
    keys.make("publisher", expires="1y", at="20200101")
    signature = keys.gpg("--output", "-", "--detach-sign", text, at="20200601")
    assert "the key has expired" in refusal(LIST, signature, ring(tmp_path, keys.export()))


def test_a_signature_that_has_expired(keys: Keys, text: Path, tmp_path: Path) -> None:
    keys.make("publisher", at="20200101")
    signature = keys.gpg("--default-sig-expire=30d", "--output", "-", "--detach-sign", text, at="20200601")
    assert "the signature has expired" in refusal(LIST, signature, ring(tmp_path, keys.export()))


def test_a_key_of_the_future(keys: Keys, text: Path, tmp_path: Path) -> None:
    """As it is for a node whose clock has stopped."""
    keys.make("publisher", at="20990101")
    signature = keys.gpg("--output", "-", "--detach-sign", text, at="20990601")
    assert "in the future by this node's clock" in refusal(LIST, signature, ring(tmp_path, keys.export()))


def test_a_key_that_was_revoked(keys: Keys, text: Path, tmp_path: Path) -> None:
    keys.make("publisher")
    signature = keys.sign(text, "publisher")
    keys.revoke("publisher")
    assert "the key was revoked" in refusal(LIST, signature, ring(tmp_path, keys.export()))


def test_a_signature_over_a_weak_hash(keys: Keys, text: Path, tmp_path: Path) -> None:
    keys.make("publisher")
    signature = keys.sign(text, "publisher", options=("--digest-algo=SHA1",))
    assert "can be forged" in refusal(LIST, signature, ring(tmp_path, keys.export()))


def test_a_bad_signature_beside_a_good_one(keys: Keys, text: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        keys.make(name)
    other = tmp_path / "other"
    other.write_bytes(b"another text")
    both = keys.sign(text, "first") + keys.sign(other, "second")
    assert "it was changed" in refusal(LIST, both, ring(tmp_path, keys.export()))


def test_a_ring_that_cannot_be_read(keys: Keys, text: Path, tmp_path: Path) -> None:
    keys.make("publisher")
    signature = keys.sign(text, "publisher")
    assert refusal(LIST, signature, tmp_path / "absent").startswith(
        f"{tmp_path}/absent: no such file or directory; put"
    )
    assert refusal(LIST, signature, tmp_path).startswith(f"{tmp_path}: is a directory; put")


@pytest.mark.parametrize("content", [b"", b"rubbish" * 100], ids=["empty", "rubbish"])
def test_a_ring_without_keys(keys: Keys, text: Path, tmp_path: Path, content: bytes) -> None:
    keys.make("publisher")
    assert "has no such key" in refusal(LIST, keys.sign(text, "publisher"), ring(tmp_path, content))


def test_a_ring_whose_armour_is_damaged_or_of_a_secret_key(keys: Keys, text: Path, tmp_path: Path) -> None:
    keys.make("publisher")
    signature = keys.sign(text, "publisher")
    armoured = keys.export(armour=True)
    damaged = armoured.replace(b"\n\nm", b"\n\n*m")
    assert "damaged armour" in refusal(LIST, signature, ring(tmp_path, damaged))
    assert "holds no public keys" in refusal(LIST, signature, ring(tmp_path, armoured[:100]))
    secret = keys.gpg("--armor", "--export-secret-keys")
    assert "holds no public keys" in refusal(LIST, signature, ring(tmp_path, secret))
