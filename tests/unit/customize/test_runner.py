"""Running hooks: preparation in threads, order, errors, and that nothing is left behind."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from osprovider.config import model
from osprovider.customize.hooks import arrange, discover
from osprovider.customize.runner import HookRunner
from osprovider.errors import HookError
from osprovider.log import reporter
from osprovider.paths import Directories
from tests.support.boot_context import CHECKOUT, boot_context
from tests.support.guests import directory_guest


class Site:
    """Hooks, a guest and a run directory."""

    def __init__(self, base: Path) -> None:
        self.directories = Directories(base / "config", base / "cache", base / "run", base / "shipped")
        self.guest = base / "guest"
        for path in (self.directories.config / "hooks", self.guest):
            path.mkdir(parents=True, mode=0o755)

    def hook(self, name: str, content: str, mode: int = 0o644) -> Path:
        """Write a hook of the site's."""
        path = self.directories.config / "hooks" / name
        path.write_text(content)
        path.chmod(mode)
        return path

    def runner(self) -> HookRunner:
        """A runner of the site's hooks."""
        hooks = arrange(discover(self.directories), model.Hooks(), "create")
        return HookRunner(hooks, boot_context(), self.directories.run)

    def run(self) -> None:
        """Run them on the guest, as one that is not mounted."""
        with self.runner() as runner, directory_guest(self.guest) as guest:
            runner.run_all(guest, root_device=None, target=None)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_hooks_run_in_order_and_each_says_its_time(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.hook("two", 'def run(guest, context):\n    guest.write("/said", guest.read("/said") + b"two\\n")\n')
    site.hook(
        "one", '# before: two\ndef run(guest, context):\n    guest.write("/said", f"one {context.hostname}\\n")\n'
    )
    site.run()
    assert (site.guest / "said").read_text() == "one web1.example.org\ntwo\n"
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["hook one", "hook two"]


def test_what_is_prepared_reaches_the_hook_that_prepared_it(site: Site) -> None:
    prepared = (
        "import threading\n"
        "def prepare(context):\n"
        "    (context.scratch / 'NAME').write_text('NAME')\n"
        "    return threading.current_thread().name, context.scratch\n"
        "def run(guest, context):\n"
        "    thread, scratch = context.prepared\n"
        "    guest.write('/NAME', f'{thread} {(scratch / \"NAME\").read_text()}')\n"
    )
    for name in ("one", "two"):
        site.hook(name, prepared.replace("NAME", name))
    site.run()
    for name in ("one", "two"):
        thread, said = (site.guest / name).read_text().split()
        assert said == name
        assert thread != threading.current_thread().name


def test_preparations_run_at_the_same_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "together", threading.Barrier(2, timeout=60), raising=False)
    content = (
        "import threading\ndef prepare(context):\n    threading.together.wait()\ndef run(guest, context):\n    pass\n"
    )
    site.hook("one", content)
    site.hook("two", content)
    site.run()  # alone, each would wait in vain


def test_the_scratch_directory_is_ours_alone_and_gone_afterwards(site: Site) -> None:
    site.hook("one", "def run(guest, context):\n    guest.write('/mode', oct(context.scratch.stat().st_mode))\n")
    site.run()
    assert (site.guest / "mode").read_text() == "0o40700"
    assert list(site.directories.run.iterdir()) == []


def test_what_a_killed_run_left_is_removed_and_what_a_live_one_has_is_not(site: Site) -> None:
    site.hook("one", "def run(guest, context):\n    pass\n")
    dead = site.directories.run / "hooks-dead"
    dead.mkdir(parents=True)
    (dead / "ssh-rsa").write_text("secret")
    with site.runner():
        (live,) = site.directories.run.iterdir()
        assert live != dead
        site.run()
        assert list(site.directories.run.iterdir()) == [live]


def test_a_failing_hook_is_named_with_its_cause_and_the_next_do_not_run(site: Site) -> None:
    path = site.hook("one", "def run(guest, context):\n    guest.read('/nothing')\n")
    site.hook("two", "def run(guest, context):\n    guest.write('/two', '')\n")
    with pytest.raises(HookError, match=f"^hook {path}: cannot read /nothing in the guest"):
        site.run()
    assert not (site.guest / "two").exists()


def test_a_mistake_in_a_hook_is_named_with_its_line(site: Site) -> None:
    path = site.hook("one", "def run(guest, context):\n    x = 1\n    return x / 0\n")
    with pytest.raises(HookError, match=f"^hook {path}: line 3: ZeroDivisionError: division by zero$"):
        site.run()


@pytest.mark.parametrize("content", ["def run(guest, context)\n", "import nothing_of_this_name\ndef run(g, c): ...\n"])
def test_a_hook_that_cannot_be_loaded_is_named_before_anything_runs(site: Site, content: str) -> None:
    path = site.hook("bad", content)
    with pytest.raises(HookError, match=f"^hook {path}: "), site.runner():
        pytest.fail("it was loaded")
    assert list(site.directories.run.iterdir()) == []


def test_a_failed_preparation_is_the_hooks_failure(site: Site) -> None:
    path = site.hook("one", "def prepare(context):\n    raise OSError('no luck')\ndef run(guest, context):\n    pass\n")
    with pytest.raises(HookError, match=f"^hook {path}: line 2: OSError: no luck$"):
        site.run()


def test_the_traceback_is_for_debugging_only(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.hook("one", "def run(guest, context):\n    raise ValueError('why')\n")
    with pytest.raises(HookError):
        site.run()
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setattr(reporter, "verbose", True)
    with pytest.raises(HookError):
        site.run()
    assert "Traceback" in capsys.readouterr().err


def test_when_something_else_fails_preparations_are_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("osprovider.background._PATIENCE_SECONDS", 60.0)
    site.hook("one", "import time\ndef prepare(context):\n    time.sleep(0.2)\ndef run(guest, context):\n    pass\n")
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), site.runner():
        raise KeyboardInterrupt
    assert threading.active_count() == before
    assert list(site.directories.run.iterdir()) == []


def test_no_bytecode_is_left_beside_hooks(site: Site) -> None:
    path = site.hook("one", "def run(guest, context):\n    pass\n")
    site.run()
    assert list(path.parent.iterdir()) == [path]


def test_dataclasses_work_in_hooks(site: Site) -> None:
    site.hook(
        "my-hook",
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Thing:\n    size: int\n"
        "def run(guest, context):\n    guest.write('/size', str(Thing(3).size))\n",
    )
    site.run()
    assert (site.guest / "size").read_text() == "3"


def test_the_shipped_hooks_are_in_an_order_that_works() -> None:
    shipped = Directories(Path("/nonexistent"), Path("/nonexistent"), Path("/nonexistent"), CHECKOUT)
    hooks = discover(shipped)
    names = [hook.name for hook in arrange(hooks, model.Hooks(), "create")]
    assert names.index("identity") < names.index("hostname") < names.index("network")
    assert names.index("users") < names.index("ssh") == len(names) - 1
    assert [hook.name for hook in arrange(hooks, model.Hooks(), "rename")] == ["hostname"]
