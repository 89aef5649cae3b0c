"""Every definition of a publisher's image, obtained from a server that lays its files out as the publisher does.

The same paths, and the same kind of list of checksums with other files in it; only the hosts are replaced. Where a
definition's comment tells how to have the signature checked, it is done as the comment says, with a key of the test's.
What lists look like is each publisher's own:

- SHA256SUMS and SHA512SUMS as coreutils write them, in text or (Ubuntu) binary form;
- BSD's form, with a comment of each file's size (Fedora, CentOS, Rocky); Fedora's is signed in place;
- a list for one image: with its name (Rocky, CentOS, Arch), with the name of the build that it is a link to (openSUSE,
  github.com/openSUSE/MirrorCache issue 523), or a bare digest (Alpine, alpine-cloud-images' image_config.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
import yaml

from osprovider.config.model import Image
from osprovider.errors import ImageError
from osprovider.images import formats
from osprovider.images.sources.obtain import Sources
from osprovider.paths import Directories
from tests.support.http_server import serve
from tests.support.openpgp import Keys, making_keys

IMAGES = Path(__file__).resolve().parents[3] / "images"
FETCHED = sorted(path for path in IMAGES.glob("*.yaml") if "source:" in path.read_text())


def _coreutils(digests: dict[str, str], mark: str = " ") -> str:
    return "".join(f"{digest} {mark}{name}\n" for name, digest in digests.items())


def _bsd(digests: dict[str, str]) -> str:
    return "".join(f"# {name}: 1048576 bytes\nSHA256 ({name}) = {digest}\n" for name, digest in digests.items())


@dataclass(frozen=True, slots=True)
class Publisher:
    """How a publisher's list of checksums looks.

    Attributes:
        digest: hashlib's name of what it lists.
        write: makes the list of names and digests.
        alone: the list is of this image alone.
    """

    digest: str
    write: Callable[[dict[str, str]], str]
    alone: bool = False


PUBLISHERS = {
    "debian": Publisher("sha512", _coreutils),
    "ubuntu": Publisher("sha256", lambda digests: _coreutils(digests, "*")),
    "fedora": Publisher("sha256", _bsd),
    "centos-stream": Publisher("sha256", _bsd, alone=True),
    "almalinux": Publisher("sha256", _coreutils),
    "rocky": Publisher("sha256", _bsd, alone=True),
    "opensuse-leap": Publisher(
        "sha256",
        lambda digests: _coreutils(
            {re.sub(r"-Cloud", "-1.0.0-Cloud-Build9.1", name): digests[name] for name in digests}
        ),
        alone=True,
    ),
    "arch": Publisher("sha256", _coreutils, alone=True),
    "alpine": Publisher("sha512", lambda digests: "".join(f"{digest}\n" for digest in digests.values()), alone=True),
}


@dataclass(frozen=True, slots=True)
class Site:
    """A server's files, and the definitions as they are with its address in place of the publishers' hosts."""

    files: Path
    url: str
    directories: Directories
    keys: Keys

    def local(self, url: str) -> str:
        """The address here of what a publisher has at `url`."""
        return re.sub(r"^https://", f"{self.url}/", url)

    def place(self, url: str) -> Path:
        """The file of what a publisher has at `url`."""
        parts = urlsplit(url)
        path = self.files / str(parts.hostname) / parts.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def publish(self, path: Path) -> Image:
        """Lay out what the definition `path` fetches, and return the definition with its host replaced."""
        definition = yaml.safe_load(path.read_text())
        source, lists = definition["source"], urljoin(definition["source"], definition["checksums"])
        publisher = PUBLISHERS[_family(path)]
        image = self.place(source)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
        digests = {image.name: hashlib.new(publisher.digest, image.read_bytes()).hexdigest()}
        if not publisher.alone:
            other = hashlib.new(publisher.digest, b"other").hexdigest()
            digests = {f"a-{image.name}": other, **digests, f"{image.name}.zsync": other, f"z-{image.name}": other}
        self.place(lists).write_text(publisher.write(digests))
        return Image(source=self.local(source), checksums=self.local(lists))

    def sign(self, path: Path, image: Image) -> Image:
        """Sign the list, and have that checked as the definition's comment says."""
        wanted = _signature(path)
        lists = urljoin(self._published(path, "source"), self._published(path, "checksums"))
        signature = urljoin(self._published(path, "source"), wanted["signature"])
        plain, signed = self.place(lists), self.place(signature)
        how, armour = "--detach-sign", ("--armor",) if signature.endswith(".asc") else ()
        if plain == signed:
            how, armour = "--clearsign", ()
        signed.write_bytes(self.keys.sign(plain, how=how, options=armour))
        keyring = self.directories.config / "keys" / wanted["keyring"]
        keyring.parent.mkdir(exist_ok=True)
        keyring.write_bytes(self.keys.export(armour=True))
        return dataclasses.replace(image, signature=self.local(signature), keyring=wanted["keyring"])

    @staticmethod
    def _published(path: Path, key: str) -> str:
        return str(yaml.safe_load(path.read_text())[key])


def _family(path: Path) -> str:
    return re.sub(r"-[\d.]+(-cloud)?$", "", path.stem)


def _signature(path: Path) -> dict[str, str]:
    """The keys that a definition's comment says to add, if it does."""
    return dict(re.findall(r"^#   (signature|keyring): (\S+)$", path.read_text(), re.MULTILINE))


SIGNED = [path for path in FETCHED if _signature(path)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A publisher of everything."""
    (files := tmp_path / "files").mkdir()
    (tmp_path / "etc").mkdir()
    directories = Directories(tmp_path / "etc", tmp_path / "cache", tmp_path / "run")
    with serve(files) as url, making_keys(tmp_path / "gpg") as keys:
        yield Site(files, url, directories, keys)


@pytest.mark.parametrize("path", FETCHED, ids=lambda path: path.stem)
def test_it_is_fetched_and_verified(site: Site, path: Path) -> None:
    image = site.publish(path)
    with Sources(site.directories).obtain(path.stem, image) as obtained:
        assert formats.detect(obtained.paths["image"]) == formats.ImageFormat("qcow2", "none")
        assert obtained.pin.verified == str(image.checksums).rpartition("/")[2]


@pytest.mark.parametrize("path", FETCHED, ids=lambda path: path.stem)
def test_what_is_not_what_the_list_says_is_refused(site: Site, path: Path) -> None:
    image = site.publish(path)
    fetched = site.place(yaml.safe_load(path.read_text())["source"])
    content = bytearray(fetched.read_bytes())
    content[-1] ^= 1
    fetched.write_bytes(content)
    with pytest.raises(ImageError, match=r"sha(256|512)"), Sources(site.directories).obtain(path.stem, image):
        pass


@pytest.mark.parametrize("path", SIGNED, ids=lambda path: path.stem)
def test_its_signature_is_checked_as_its_comment_says(site: Site, path: Path) -> None:
    site.keys.make("publisher")
    image = site.sign(path, site.publish(path))
    with Sources(site.directories).obtain(path.stem, image) as obtained:
        assert "signed by" in obtained.pin.verified


@pytest.mark.parametrize("path", SIGNED, ids=lambda path: path.stem)
def test_a_list_of_which_the_signed_one_differs_is_refused(site: Site, path: Path) -> None:
    site.keys.make("publisher")
    image = site.sign(path, site.publish(path))
    assert image.checksums
    lists = site.files / image.checksums.removeprefix(f"{site.url}/")
    text = lists.read_text()
    first = re.search(r"[0-9a-f]{64}", text)
    assert first
    lists.write_text(text.replace(first[0], first[0][::-1]))
    with pytest.raises(ImageError, match="signature"), Sources(site.directories).obtain(path.stem, image):
        pass
