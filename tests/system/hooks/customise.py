"""Customise the guest on an image as a deployment does: ``python -m tests.system.hooks.customise IMAGE CONFIG RUN``.

A process of its own, because it takes a mount namespace of its own. The context comes pickled on standard input.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from osprovider import linux
from osprovider.config.model import Hooks
from osprovider.customize.context import Context
from osprovider.customize.hooks import arrange, discover
from osprovider.customize.runner import HookRunner
from osprovider.disk.loop import loop_device
from osprovider.errors import OsproviderError
from osprovider.guest.mounting import mounted
from osprovider.paths import Directories
from tests.support.template import CHECKOUT


def main(image: Path, config: Path, run: Path) -> None:
    """Run the hooks, all but those that concern booting."""
    context: Context = pickle.load(sys.stdin.buffer)  # noqa: S301  our own test's
    directories = Directories(config, Path("/nonexistent"), run, CHECKOUT)
    hooks = arrange(discover(directories), Hooks(disable=("grub", "console")), context.event)
    linux.private_mount_namespace()
    with (
        HookRunner(hooks, context, run) as runner,
        loop_device(image, offset_bytes=0, size_bytes=image.stat().st_size) as loop,
        mounted(loop, "ext4", run) as guest,
    ):
        runner.run_all(guest, root_device=loop, target=guest.mountpoint)


if __name__ == "__main__":
    try:
        main(*(Path(word) for word in sys.argv[1:]))
    except OsproviderError as error:
        sys.exit(f"refused: {error}")
