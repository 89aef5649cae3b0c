"""The Debian package, as apt installs, upgrades and purges it, in a Debian of its own.

One tree is made once a run; each test changes a layer of its own above it, in namespaces that end with each command.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from osprovider.ganeti.request import Script
from osprovider.ganeti.synthesis import synthesize
from tests.support.debian import lay_debian
from tests.support.documents import CHECKOUT
from tests.support.runs import locked

CONFIG = "etc/ganeti/osprovider"
DEFINITION = "usr/share/ganeti/os/osprovider"
INSTALL = ["apt-get", "install", "--yes", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"]

_ENTER = """
mount -t overlay -o "lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK" overlay "$ROOT"
mount -t proc proc "$ROOT/proc"
mount -t sysfs sysfs "$ROOT/sys"
mount --rbind /dev "$ROOT/dev"
exec chroot "$ROOT" "$@"
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A Debian with osprovider installed: a layer of a test's own above the shared tree."""

    lower: Path
    directory: Path

    @property
    def upper(self) -> Path:
        """What differs from the shared tree."""
        return self.directory / "upper"

    def run(
        self, *words: str, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root of that Debian; nothing is mounted afterwards."""
        paths = {
            "LOWER": self.lower,
            "UPPER": self.upper,
            "WORK": self.directory / "work",
            "ROOT": self.directory / "root",
        }
        for path in paths.values():
            path.mkdir(exist_ok=True)
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", _ENTER, "enter", *words],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root"}
            | dict(env or {})
            | {name: str(path) for name, path in paths.items()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done

    def read(self, path: str) -> str:
        """A file's content."""
        return self.run("cat", f"/{path}").stdout

    def write(self, path: str, text: str) -> None:
        """Put a file there."""
        self.run("sh", "-euc", 'mkdir -p "${0%/*}"; printf %s "$1" >"$0"', f"/{path}", text)

    def find(self, pattern: str) -> list[str]:
        """Paths with this in them, apart from what dpkg and apt note of packages."""
        places = ["/etc", "/usr", "/var", "/run", "/opt", "/root"]
        apart = ["-not", "-path", "/var/lib/dpkg/*", "-not", "-path", "/var/log/*", "-not", "-path", "/var/cache/apt/*"]
        return sorted(self.run("find", *places, "-path", f"*{pattern}*", *apart).stdout.split())


@pytest.fixture(scope="session")
def tree(run_directory: Path, package: Path) -> Path:
    """A minimal Debian with the package, installed by apt with what it depends on."""
    root = run_directory / "package-tree"
    with locked(run_directory / "package-tree.lock"):
        if not root.exists():
            begun = run_directory / "package-tree.begun"
            lay_debian(begun, packages=[package])
            begun.rename(root)
    return root


@pytest.fixture
def machine(tree: Path, run_directory: Path) -> Machine:
    """That Debian, to be changed at will."""
    return Machine(tree, Path(tempfile.mkdtemp(prefix="package-", dir=run_directory)))


def test_lintian_has_nothing_to_say(package: Path) -> None:
    options = ["--allow-root", "--display-info", "--pedantic", "--fail-on=error,warning,info,pedantic"]
    done = subprocess.run(["lintian", *options, str(package)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_os_definition_is_what_ganeti_wants(machine: Machine, tree: Path) -> None:
    definition = tree / DEFINITION
    assert (definition / "ganeti_api_version").read_text().split() == ["10", "15", "20"]
    for script in Script:
        assert (definition / script.value).stat().st_mode & 0o111 == 0o111
        usage = machine.run(f"/{DEFINITION}/{script.value}", "--help")
        assert usage.stdout.startswith(f"usage: {script.value}")
    assert (definition / "variants.list").readlink() == Path(f"/{CONFIG}/variants.list")
    # One a line, offered or not: a line of comment without a blank is a variant that is not.
    listed = re.findall(r"^#?([a-z][a-z0-9.-]*)$", machine.read(f"{DEFINITION}/variants.list"), re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (tree / "usr/share/osprovider/variants").iterdir())
    # Ganeti takes everything in it for a name and its description, and fails on an empty line.
    lines = (definition / "parameters.list").read_text().splitlines()
    assert lines
    assert all(re.fullmatch(r"[a-z_-]+ \S.*", line) for line in lines)


def test_the_installed_command_and_scripts_work(machine: Machine) -> None:
    assert "no problem found" in machine.run("osprovider", "check").stdout
    assert "\ndebian-12 " in machine.run("osprovider", "variant", "list").stdout
    plan = machine.run("osprovider", "plan", "web1.example.org", "--variant", "debian-12").stdout
    assert "identity" in plan
    environment = synthesize("", "debian-12", script=Script.VERIFY, parameters={"wipe": "everything"})
    wrong = machine.run(f"/{DEFINITION}/verify", "parameters", check=False, env=environment)
    assert wrong.returncode == 2
    assert "OSP_WIPE" in wrong.stderr


def test_what_it_depends_on_is_enough_to_build_an_image_and_install_an_instance(machine: Machine) -> None:
    machine.run("truncate", "--size=3G", "/root/disk0.raw")
    environment = synthesize("web1.example.org", "debian-12", disks=[{"path": "/root/disk0.raw"}], nics=[{}])
    done = machine.run(f"/{DEFINITION}/create", env=environment)
    assert done.stderr.splitlines()[-1].startswith("web1.example.org is installed: ")


def test_everything_that_is_shipped_is_there(tree: Path) -> None:
    share = tree / "usr/share/osprovider"
    for directory in ("variants", "images", "hooks", "templates"):
        expected = {path.name for path in (CHECKOUT / directory).iterdir() if path.is_file()}
        assert {path.name for path in (share / directory).iterdir()} == expected
    assert {path.stem for path in (share / "schema").iterdir()} == {"cache", "image", "instance", "subnet", "variant"}
    modules = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "osprovider").rglob("*.py")}
    packages = tree / "usr/lib/python3/dist-packages"
    assert {str(path.relative_to(packages)) for path in (packages / "osprovider").rglob("*.py")} == modules
    assert (tree / "var/cache/ganeti-osprovider").is_dir()


def test_there_is_a_place_for_each_file_of_the_sites(tree: Path) -> None:
    """Those that the guides and messages name."""
    places = {path.name for path in (tree / "etc/ganeti/osprovider").iterdir() if path.is_dir()}
    assert places == {"variants", "images", "keys", "debs", "scripts", "subnets", "instances", "hooks", "templates"}


def test_man_pages_and_guides_are_there(tree: Path) -> None:
    status = (tree / "var/lib/dpkg/info/osprovider.list").read_text().splitlines()
    assert "/usr/share/man/man1/osprovider-plan.1.gz" in status
    guides = {path.name for path in (CHECKOUT / "docs").glob("*.md")}
    assert {Path(path).name for path in status if path.endswith(".md")} == guides


def _newer(package: Path, directory: Path, change: Callable[[Path], None]) -> Path:
    """The same package as a later version, changed."""
    unpacked = directory / "unpacked"
    subprocess.run(["dpkg-deb", "--raw-extract", package, unpacked], check=True)
    change(unpacked)
    control = unpacked / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: (.*)$", r"Version: \1+later", control.read_text()))
    sums = unpacked / "DEBIAN/md5sums"
    sums.write_text("".join(_sum(unpacked, line.split(maxsplit=1)[1]) for line in sums.read_text().splitlines()))
    newer = directory / "osprovider_later_amd64.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", unpacked, newer], check=True, capture_output=True)
    return newer


def _sum(root: Path, name: str) -> str:
    digest = hashlib.md5((root / name).read_bytes(), usedforsecurity=False).hexdigest()
    return f"{digest}  {name}\n"


def _install(machine: Machine, package: Path) -> None:
    (machine.upper / "root").mkdir(parents=True, exist_ok=True, mode=0o700)
    (machine.upper / "root" / package.name).write_bytes(package.read_bytes())
    machine.run(*INSTALL, f"/root/{package.name}")


def test_an_upgrade_keeps_what_the_site_wrote(machine: Machine, package: Path, tmp_path: Path) -> None:
    ours = {
        f"{CONFIG}/defaults.yaml": "system: {timezone: Europe/Berlin}\n",
        f"{CONFIG}/variants.list": "debian-12\nmine\n",
        f"{CONFIG}/variants/mine.yaml": "image: debian-12\n",
        f"{CONFIG}/hooks/mine": "def run(guest, context):\n    pass\n",
    }
    for path, text in ours.items():
        machine.write(path, text)

    def change(root: Path) -> None:
        for name in (f"{CONFIG}/defaults.yaml", "usr/share/osprovider/variants/debian-12.yaml"):
            with (root / name).open("a") as file:
                file.write("# later\n")

    _install(machine, _newer(package, tmp_path, change))
    assert {path: machine.read(path) for path in ours} == ours
    assert machine.read("usr/share/osprovider/variants/debian-12.yaml").endswith("# later\n")
    assert "no problem found" in machine.run("osprovider", "check").stdout


def test_an_upgrade_renews_what_the_site_left_alone(machine: Machine, package: Path, tmp_path: Path) -> None:
    def change(root: Path) -> None:
        with (root / CONFIG / "defaults.yaml").open("a") as file:
            file.write("# later\n")

    _install(machine, _newer(package, tmp_path, change))
    assert machine.read(f"{CONFIG}/defaults.yaml").endswith("# later\n")


def test_a_removal_keeps_configuration_and_a_purge_takes_the_cache_along(machine: Machine) -> None:
    machine.write("var/cache/ganeti-osprovider/templates/0/template.img", "an image\n")
    machine.write("run/ganeti-osprovider/locks/a", "")
    machine.write(f"{CONFIG}/variants/mine.yaml", "image: debian-12\n")
    machine.run("osprovider", "check")
    machine.run("apt-get", "remove", "--yes", "osprovider")
    left = machine.find("osprovider")
    assert f"/{CONFIG}/defaults.yaml" in left
    assert "/usr/bin/osprovider" not in left
    machine.run("apt-get", "purge", "--yes", "osprovider")
    assert machine.find("osprovider") == [f"/{CONFIG}", f"/{CONFIG}/variants", f"/{CONFIG}/variants/mine.yaml"]


def test_a_purge_leaves_nothing_where_the_site_wrote_nothing(machine: Machine) -> None:
    machine.run("osprovider", "plan", "web1.example.org", "--variant", "debian-12")
    machine.run("apt-get", "purge", "--yes", "osprovider")
    assert machine.find("osprovider") == []
