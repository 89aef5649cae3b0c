"""``rename``: a system that has run is opened in the appliance, and gets its new name."""

from __future__ import annotations

from tests.system.create.site import Site, debugfs

GIB = 1 << 30


def test_rename_writes_the_new_name_wherever_the_old_one_stood(site: Site) -> None:
    disk = site.disk(3 * GIB)
    site.created(disk)
    outcome = site.renamed(disk, "web1.example.org", "shop.example.org")
    assert outcome.status == 0, outcome.said
    assert debugfs(disk, "cat /etc/hostname") == "shop.example.org\n"
    hosts = debugfs(disk, "cat /etc/hosts")
    assert "shop.example.org" in hosts
    assert "web1" not in hosts


def test_rename_on_the_host_where_the_site_trusts_its_guests(site: Site) -> None:
    disk = site.disk(3 * GIB)
    site.write("defaults.yaml", "isolation: host\n")
    site.created(disk)
    site.write("defaults.yaml", 'isolation: host\ndisks: {"7": {}}\n')  # for the next reinstall, says the owner
    outcome = site.renamed(disk, "web1.example.org", "shop.example.org")
    assert outcome.status == 0, outcome.said
    assert debugfs(disk, "cat /etc/hostname") == "shop.example.org\n"


def test_a_disk_without_a_system_of_ours_is_refused(site: Site) -> None:
    disk = site.disk(GIB)
    outcome = site.renamed(disk, "web1.example.org", "shop.example.org")
    assert outcome.status == 1
    assert outcome.last_line.startswith(f"osprovider: {disk}: has no partition table, and no file system")
