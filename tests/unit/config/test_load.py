"""Files and OS parameters become what holds for one instance, or every problem there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from osprovider.config.load import Settings, check_all, image_names, load, load_image, variant_names
from osprovider.config.model import InstanceNic
from osprovider.errors import ConfigurationError
from osprovider.paths import Directories

WEB1 = "web1.example.org"


class Site:
    """A site's configuration and a shipped one, in a directory."""

    def __init__(self, root: Path) -> None:
        self.directories = Directories(
            config=root / "site", cache=root / "cache", run=root / "run", shipped=root / "share"
        )
        self.write("share/variants/debian-12.yaml", "image: debian-12\n")
        self.write("share/images/debian-12.yaml", "build: {suite: bookworm}\n")

    def write(self, path: str, text: str) -> Path:
        """Write a file below ``site/`` or ``share/``."""
        file = self.directories.config.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def load(self, variant: str = "debian-12", *, instance: str | None = WEB1, **parameters: str) -> Settings:
        """Load it."""
        return load(self.directories, variant, instance=instance, parameters=parameters)

    def problems(self, variant: str = "debian-12", *, instance: str | None = WEB1, **parameters: str) -> list[str]:
        """What loading it refuses."""
        with pytest.raises(ConfigurationError) as refusal:
            self.load(variant, instance=instance, **parameters)
        return self.short(str(refusal.value))

    def check(self) -> list[str]:
        """What checking all of it finds."""
        return self.short("\n".join(map(str, check_all(self.directories)[0])))

    def short(self, text: str) -> list[str]:
        """The lines of a message, with relative file names."""
        return text.replace(f"{self.directories.config.parent}/", "").splitlines()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_shipped_variant_works_without_any_file_of_the_site(site: Site) -> None:
    settings = site.load()
    assert settings.variant_name == "debian-12"
    assert settings.image_name == "debian-12"
    assert settings.image is not None
    assert settings.image.build is not None
    assert settings.image.build.suite == "bookworm"
    assert settings.nics == ()
    assert settings.subnets == {}
    assert not settings.leave_disk_alone
    assert [file.name for file in settings.files] == ["debian-12.yaml", "debian-12.yaml"]


def test_later_layers_win_maps_merge_and_lists_replace(site: Site) -> None:
    site.write(
        "site/defaults.yaml",
        "wipe: none\nsystem: {timezone: Europe/Berlin, locale: de_DE.UTF-8}\nboot: {kernel_args: [a, b], timeout: 9}\n"
        "network: {dns: {servers: [198.51.100.1], search: [defaults.example]}}\n",
    )
    site.write(
        "site/variants/own.yaml",
        "image: debian-12\nwipe: zero\nsystem: {timezone: Etc/UTC}\nboot: {kernel_args: [c]}\n",
    )
    site.write(f"site/instances/{WEB1}.yaml", "system: {hostname: short}\nnetwork: {dns: {servers: [198.51.100.2]}}\n")
    variant = site.load("own", dns_servers="198.51.100.3", wipe="discard").variant
    assert variant.wipe == "discard"
    assert (variant.system.timezone, variant.system.locale, variant.system.hostname) == (
        "Etc/UTC",
        "de_DE.UTF-8",
        "short",
    )
    assert (variant.boot.kernel_args, variant.boot.timeout, variant.boot.serial) == (("c",), 9, "auto")
    assert variant.network.dns.servers == ("198.51.100.3",)
    assert variant.network.dns.search == ("defaults.example",)


def test_an_instance_takes_a_user_s_setting_back_and_leaves_the_others(site: Site) -> None:
    site.write(
        "site/defaults.yaml",
        "users:\n  root: {password_hash: '$5$abc$" + "x" * 43 + "'}\n  admin: {groups: [sudo], shell: /bin/zsh}\n",
    )
    site.write(f"site/instances/{WEB1}.yaml", "users: {root: {password_hash: ~}, admin: {groups: []}}\n")
    users = site.load().variant.users
    assert users["root"].password_hash is None
    assert (users["admin"].groups, users["admin"].shell) == ((), "/bin/zsh")


def test_a_site_s_file_takes_the_place_of_a_shipped_one_whole(site: Site) -> None:
    site.write("share/variants/debian-12.yaml", "image: debian-12\nwipe: zero\n")
    site.write("site/variants/debian-12.yaml", "image: own\n")
    site.write("site/images/own.yaml", "build: {suite: trixie}\n")
    settings = site.load()
    assert settings.variant.wipe == "auto"
    assert settings.image is not None
    assert settings.image.build is not None
    assert settings.image.build.suite == "trixie"
    assert settings.files[0] == site.directories.config / "variants" / "debian-12.yaml"


def test_names_are_those_of_both_directories(site: Site) -> None:
    site.write("site/variants/own.yaml", "image: none")
    site.write("site/variants/debian-12.yaml", "image: none")
    site.write("site/variants/.#own.yaml", "an editor's")
    site.write("site/variants/own.yaml~", "an editor's")
    site.write("site/images/a.yaml", "build: {suite: x}")
    assert variant_names(site.directories) == ("debian-12", "own")
    assert image_names(site.directories) == ("a", "debian-12")


def test_another_instance_s_file_is_not_read(site: Site) -> None:
    site.write("site/instances/web2.example.org.yaml", "wipe: [nonsense\n")
    assert site.load().variant.wipe == "auto"


def test_a_variant_without_an_image_leaves_the_disk_alone(site: Site) -> None:
    site.write("site/variants/cd.yaml", "image: none")
    settings = site.load("cd")
    assert settings.leave_disk_alone
    assert settings.image is None
    assert settings.image_name is None


def test_an_image_that_ganeti_writes_leaves_the_disk_alone(site: Site) -> None:
    settings = site.load(**{"os-image": "/srv/images/x.raw"})
    assert settings.leave_disk_alone
    assert settings.image is None


def test_a_forgotten_image_is_not_taken_for_none(site: Site) -> None:
    site.write("site/variants/own.yaml", "wipe: zero\n")
    expected = "no image is named; write image: NAME, or image: none to leave the disk alone"
    assert site.problems("own") == [f"site/variants/own.yaml:1:1: {expected}"]
    assert site.check() == [f"site/variants/own.yaml:1:1: {expected}"]
    assert site.load("own", image="debian-12").image_name == "debian-12"


def test_an_unknown_variant_is_answered_with_where_and_what(site: Site) -> None:
    assert site.problems("debian-13") == [
        'OS_VARIANT: there is no variant "debian-13" in site/variants or share/variants; did you mean debian-12?'
    ]
    assert site.problems("xyz") == [
        'OS_VARIANT: there is no variant "xyz" in site/variants or share/variants; there is debian-12'
    ]
    assert site.problems("") == ["OS_VARIANT: no variant was asked for; write osprovider+VARIANT (there is debian-12)"]


def test_an_unknown_image_is_answered_at_the_place_that_names_it(site: Site) -> None:
    expected = 'there is no image "debian-21" in site/images or share/images; did you mean debian-12?'
    site.write("site/variants/own.yaml", "description: x\nimage: debian-21\n")
    assert site.problems("own") == [f"site/variants/own.yaml:2:8: {expected}"]
    assert site.problems(image="debian-21") == [f"OSP_IMAGE: {expected}"]
    site.write(f"site/instances/{WEB1}.yaml", "image: debian-21\n")
    assert site.problems() == [f"site/instances/{WEB1}.yaml:1:8: {expected}"]
    assert f"site/instances/{WEB1}.yaml:1:8: {expected}" in site.check()


@pytest.mark.parametrize(
    "name", ["../site/variants/own", "/etc/passwd", "own/../own", "..", ".", "own\0", "own\n", "own.yaml"]
)
def test_a_variant_s_name_cannot_leave_its_directory(site: Site, name: str) -> None:
    site.write("site/variants/own.yaml", "image: none")
    (problem,) = site.problems(name)
    assert problem.startswith("OS_VARIANT: there is no variant ")


@pytest.mark.parametrize(
    "name", ["../variants/own", "/etc/passwd", "..", ".", "", "a/b", "a\0b", "a\n", ".a", "a..b", "A.example"]
)
def test_an_instance_s_name_cannot_leave_its_directory(site: Site, name: str) -> None:
    (problem,) = site.problems(instance=name)
    assert problem.startswith("INSTANCE_NAME: ")
    assert problem.endswith("is not an instance's name; write its FQDN in lower case")


def test_an_image_s_name_cannot_leave_its_directory(site: Site) -> None:
    site.write("site/secret.yaml", "build: {suite: x}")
    with pytest.raises(ConfigurationError, match=r'there is no image "\.\./secret" in'):
        load_image(site.directories, "../secret")


def test_an_image_is_loaded_by_name_or_its_problems_are_said(site: Site) -> None:
    build = load_image(site.directories, "debian-12").build
    assert build is not None
    assert build.suite == "bookworm"
    site.write("site/images/bad.yaml", "build: {suite: 12}")
    with pytest.raises(ConfigurationError, match=r"bad\.yaml:1:16: build\.suite: must be text"):
        load_image(site.directories, "bad")


def test_all_problems_of_all_files_are_said_at_once_each_with_its_file(site: Site) -> None:
    site.write("site/defaults.yaml", "wipe: x\n")
    site.write("site/variants/debian-12.yaml", "image: debian-21\nwipe: y\n")
    site.write(f"site/instances/{WEB1}.yaml", "wipe: z\nnics: [{subnet: pord}]\n")
    site.write("site/subnets/prod.yaml", "mtu: 1\n")
    assert [problem.partition(": ")[0] for problem in site.problems(wipe="w")] == [
        "site/defaults.yaml:1:7",
        f"site/instances/{WEB1}.yaml:1:7",
        "site/subnets/prod.yaml:1:6",
        "site/variants/debian-12.yaml:2:7",
        "OSP_WIPE",
    ]


def test_a_wrong_value_is_a_problem_even_where_a_later_layer_replaces_it(site: Site) -> None:
    site.write("site/defaults.yaml", "wipe: x\n")
    assert site.problems(wipe="zero") == [
        'site/defaults.yaml:1:7: wipe: "x" is not known here; write auto, zero, discard or none'
    ]


def test_a_link_to_nothing_and_an_unreadable_kind_of_file_are_named(site: Site) -> None:
    directory = site.directories.config / "variants"
    directory.mkdir(parents=True)
    (directory / "gone.yaml").symlink_to("nowhere")
    (directory / "folder.yaml").mkdir()
    assert site.problems("gone")[0] == "site/variants/gone.yaml: is a link to nothing; remove it, or put the file there"
    assert site.problems("folder")[0].startswith("site/variants/folder.yaml: cannot be read: is a directory")


SUBNET = "networks: [198.51.100.0/24, 2001:db8:1::/64]\ngateways: [198.51.100.1, '2001:db8:1::1']\n"


def test_an_instance_s_nics_and_all_subnets_are_in_the_settings(site: Site) -> None:
    site.write("site/subnets/prod.yaml", SUBNET)
    site.write("site/subnets/other.yaml", "networks: [203.0.113.0/24]\n")
    site.write(
        f"site/instances/{WEB1}.yaml",
        "nics:\n  - {subnet: prod, addresses: [198.51.100.21]}\n  - {}\n  - {dhcp: true}\n",
    )
    settings = site.load()
    assert settings.nics == (
        InstanceNic(subnet="prod", addresses=("198.51.100.21",)),
        InstanceNic(),
        InstanceNic(dhcp=True),
    )
    assert sorted(settings.subnets) == ["other", "prod"]
    assert settings.subnets["prod"].gateways == ("198.51.100.1", "2001:db8:1::1")


@pytest.mark.parametrize(
    ("nics", "expected"),
    [
        (["{subnet: pord}"], '2:12: nics[0].subnet: there is no subnet "pord"; did you mean prod?'),
        (
            ["{subnet: prod, addresses: [203.0.113.5]}"],
            (
                "2:30: nics[0].addresses[0]: 203.0.113.5 is outside of subnet prod, "
                "which has 198.51.100.0/24 and 2001:db8:1::/64; correct one of them"
            ),
        ),
        (["{subnet: prod, addresses: [203.0.113.5/24]}"], "2:30: nics[0].addresses[0]: 203.0.113.5/24 is outside of"),
        (["{subnet: prod, addresses: ['2001:db8:2::5']}"], "2:30: nics[0].addresses[0]: 2001:db8:2::5 is outside of"),
        (
            ["{subnet: prod, addresses: [198.51.100.255]}"],
            "2:30: nics[0].addresses[0]: 198.51.100.255 is 198.51.100.0/24's own or broadcast address; write one",
        ),
        (
            ["{subnet: empty, addresses: [198.51.100.5]}"],
            "2:31: nics[0].addresses[0]: 198.51.100.5 is outside of subnet empty, which has no networks at all",
        ),
        (
            ["{}", "{addresses: [198.51.100.5]}"],
            "3:16: nics[1].addresses[0]: 198.51.100.5 has no prefix length; write one, as in 198.51.100.5/24, or name",
        ),
        (
            ["{subnet: prod, addresses: [198.51.100.5, 198.51.100.5/24]}"],
            "2:44: nics[0].addresses[1]: 198.51.100.5 stands in line 2 already; it can be there once",
        ),
        (
            ["{addresses: ['2001:db8:1::5/64']}", "{addresses: ['2001:db8:1:0::5/64']}"],
            "3:16: nics[1].addresses[0]: 2001:db8:1::5 stands in line 2 already",
        ),
        (
            ["{addresses: [198.51.100.5/24], gateways: [198.51.100.1, 198.51.100.2]}"],
            "2:59: nics[0].gateways[1]: 198.51.100.2 is a second gateway for IPv4 after 198.51.100.1; keep one",
        ),
    ],
)
def test_what_an_instance_s_nics_cannot_have_is_named_at_its_place(site: Site, nics: list[str], expected: str) -> None:
    site.write("site/subnets/prod.yaml", SUBNET)
    site.write("site/subnets/empty.yaml", "match: {link: br9}\n")
    site.write(f"site/instances/{WEB1}.yaml", "\n".join(["nics:", *(f"- {nic}" for nic in nics)]))
    (problem,) = site.problems()
    assert problem.startswith(f"site/instances/{WEB1}.yaml:{expected}")


def test_a_gateway_outside_of_the_networks_is_legal(site: Site) -> None:
    site.write("site/subnets/prod.yaml", "networks: [198.51.100.0/24]\ngateways: [203.0.113.1, fe80::1]\n")
    assert site.load().subnets["prod"].gateways == ("203.0.113.1", "fe80::1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "gateways: [198.51.100.1, 198.51.100.2]",
            "1:26: gateways[1]: 198.51.100.2 is a second gateway for IPv4 after",
        ),
        ("gateways: ['fe80::1', 198.51.100.1, 'fe80::2']", "1:37: gateways[2]: fe80::2 is a second gateway for IPv6"),
        (
            "networks: [198.51.100.0/24, 198.51.100.128/25]",
            "1:29: networks[1]: 198.51.100.128/25 overlaps 198.51.100.0/24",
        ),
        ("networks: [2001:db8::/64]\nmtu: 1200", "2:6: mtu: IPv6 needs 1280 bytes at least"),
        ("match: {}", "1:8: match: says nothing; write link, network or both"),
    ],
)
def test_what_does_not_fit_together_in_a_subnet_is_named(site: Site, text: str, expected: str) -> None:
    site.write("site/subnets/prod.yaml", text)
    (problem,) = site.problems()
    assert problem.startswith(f"site/subnets/prod.yaml:{expected}")


def test_two_subnets_that_claim_the_same_nics_are_named(site: Site) -> None:
    site.write("site/subnets/a.yaml", "match: {link: br0}")
    site.write("site/subnets/b.yaml", "match: {link: br0}")
    site.write("site/subnets/c.yaml", "networks: [198.51.100.0/24]")
    site.write("site/subnets/d.yaml", "networks: [203.0.113.0/24, 198.51.100.0/24]")
    assert site.problems() == [
        "site/subnets/b.yaml:1:8: match: is also what subnet a says (site/subnets/a.yaml); tell them apart by match",
        (
            "site/subnets/d.yaml:1:28: networks[1]: 198.51.100.0/24 is also what subnet c says (site/subnets/c.yaml); "
            "tell them apart by match"
        ),
    ]


def test_one_network_in_two_subnets_is_legal_where_match_tells_them_apart(site: Site) -> None:
    site.write("site/subnets/a.yaml", "networks: [198.51.100.0/24]\nmatch: {link: br0}")
    site.write("site/subnets/b.yaml", "networks: [198.51.100.0/24]\nmatch: {link: br1}")
    assert sorted(site.load().subnets) == ["a", "b"]


def test_a_subnet_with_problems_of_its_own_is_not_said_to_be_missing(site: Site) -> None:
    site.write("site/subnets/prod.yaml", "mtu: 1\n")
    site.write(f"site/instances/{WEB1}.yaml", "nics: [{subnet: prod, addresses: [198.51.100.21]}]\n")
    (problem,) = site.problems()
    assert problem.startswith("site/subnets/prod.yaml:1:6: ")


def test_checking_all_finds_nothing_wrong_with_what_is_right(site: Site) -> None:
    site.write("site/defaults.yaml", "system: {timezone: Europe/Berlin}\n")
    site.write("site/subnets/prod.yaml", SUBNET)
    site.write(f"site/instances/{WEB1}.yaml", "nics: [{subnet: prod, addresses: [198.51.100.21]}]\n")
    problems, files = check_all(site.directories)
    assert problems == []
    assert [str(file.relative_to(site.directories.config.parent)) for file in sorted(files)] == [
        "share/images/debian-12.yaml",
        "share/variants/debian-12.yaml",
        "site/defaults.yaml",
        f"site/instances/{WEB1}.yaml",
        "site/subnets/prod.yaml",
    ]


def test_checking_all_looks_into_every_file(site: Site) -> None:
    site.write("site/defaults.yaml", "wipe: x")
    site.write("site/variants/unused.yaml", "image: gone")
    site.write("site/images/unused.yaml", "build: {suite: 1}")
    site.write("site/subnets/unused.yaml", "mtu: 1")
    site.write("site/instances/a.example.org.yaml", "nics: [{subnet: gone}]")
    assert [problem.partition(": ")[0] for problem in site.check()] == [
        "site/defaults.yaml:1:7",
        "site/images/unused.yaml:1:16",
        "site/instances/a.example.org.yaml:1:17",
        "site/subnets/unused.yaml:1:6",
        "site/variants/unused.yaml:1:8",
    ]


def test_checking_all_finds_one_address_in_two_instances(site: Site) -> None:
    for name in ("a", "b"):
        site.write(f"site/instances/{name}.example.org.yaml", "nics: [{addresses: [198.51.100.21/24]}]")
    assert site.check() == [
        (
            "site/instances/b.example.org.yaml:1:21: 198.51.100.21 is also in site/instances/a.example.org.yaml, "
            "line 1; only one instance can have it"
        )
    ]


def test_checking_all_names_files_that_are_never_read(site: Site) -> None:
    site.write("site/variants/a.yml", "image: none")
    site.write("site/variants/-a.yaml", "image: none")
    site.write("site/instances/Web.example.org.yaml", "")
    site.write("site/images/none.yaml", "build: {suite: x}")
    site.write("site/variants/README", "not configuration")
    names = "is never read; call it NAME.yaml, of letters, digits, '.', '_' and '-'"
    assert site.check() == [
        'site/images/none.yaml: is never read: "none" means no image; give it another name',
        "site/instances/Web.example.org.yaml: is never read; call it FQDN.yaml, in lower case",
        f"site/variants/-a.yaml: {names}",
        f"site/variants/a.yml: {names}",
    ]


def test_checking_all_names_variants_that_ganeti_offers_and_that_are_not_there(site: Site) -> None:
    site.write("site/variants.list", "# the site's\n\ndebian-12\n  web-1 \ndebain-12\n#debian-99\n")
    site.write("site/variants/web-1.yaml", "image: none")
    place = "in site/variants or share/variants; did you mean debian-12?"
    assert site.check() == [f'site/variants.list:5: there is no variant "debain-12" {place}']
    (site.directories.config / "variants.list").write_bytes(b"debian-12\n\xff\n")
    assert site.check()[0].startswith("site/variants.list:2: there is no variant ")


def test_the_shipped_configuration_has_no_problems(tmp_path: Path) -> None:
    checkout = Path(__file__).parents[3]
    directories = Directories(config=tmp_path, cache=tmp_path, run=tmp_path, shipped=checkout)
    problems, files = check_all(directories)
    assert problems == []
    assert checkout / "variants" / "debian-12.yaml" in files
    assert load(directories, "debian-12", instance=WEB1, parameters={}).image_name == "debian-12"


def test_without_variants_the_defaults_are_the_one_there_is(site: Site) -> None:
    site.write("site/defaults.yaml", "image: debian-12\n")
    settings = load(site.directories, "", instance=None, parameters={})
    assert settings.image_name == "debian-12"
