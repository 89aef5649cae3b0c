"""``python3 -m osprovider``: the ``osprovider`` command from a checkout."""

from osprovider.cli import main

if __name__ == "__main__":
    main()
