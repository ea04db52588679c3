"""Which registry an image is in: every reference there is, and no look-alike, which would get a token."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ecr_swarm_login as script

patient = settings(deadline=None, max_examples=60)  # a busy machine may take its time
LOWER = string.ascii_lowercase + string.digits
# amazon-ecr-credential-helper, ecr-login/api/client.go
SUFFIXES = {
    "amazonaws.com": [
        "eu-central-1",
        "us-east-1",
        "us-gov-west-1",
        "mx-central-1",
        "ap-southeast-12",
    ],
    "amazonaws.com.cn": ["cn-north-1", "cn-northwest-1"],
    "amazonaws.eu": ["eusc-de-east-1"],
    "on.aws": ["eu-central-1", "us-gov-east-1"],
    "on.amazonwebservices.com.cn": ["cn-north-1"],
    "sc2s.sgov.gov": ["us-isob-east-1"],
    "c2s.ic.gov": ["us-iso-east-1", "us-iso-west-1"],
    "cloud.adc-e.uk": ["eu-isoe-west-1"],
    "csp.hci.ic.gov": ["us-isof-south-1"],
}

accounts = st.text(string.digits, min_size=12, max_size=12)
services = st.sampled_from([".dkr.ecr", ".dkr-ecr", ".dkr.ecr-fips", ".dkr-ecr-fips"])
regions = st.sampled_from(
    [(region, suffix) for suffix, known in SUFFIXES.items() for region in known]
)
hosts = st.builds("{0}{1}.{2[0]}.{2[1]}".format, accounts, services, regions)
# https://pkg.go.dev/github.com/distribution/reference
words = st.text(LOWER, min_size=1, max_size=12)
separators = st.sampled_from([".", "_", "__", "-", "--"])
further_words = st.lists(st.builds("{}{}".format, separators, words), max_size=3).map("".join)
components = st.builds("{}{}".format, words, further_words)
paths = st.lists(components, min_size=1, max_size=5).map("/".join)
tags = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=20)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
endings = st.one_of(
    st.just(""),
    tags.map(":{}".format),
    digests.map("@sha256:{}".format),
    st.builds(":{}@sha256:{}".format, tags, digests),
)


@patient
@given(hosts, paths, endings)
def test_every_image_in_ecr(host: str, path: str, ending: str) -> None:
    assert script.ecr_host(f"{host}/{path}{ending}") == host


@patient
@given(components, paths, endings)
def test_no_image_without_a_host(first: str, path: str, ending: str) -> None:
    for image in (
        first + ending,
        f"{first}/{path}{ending}",
        f"localhost:5000/{path}",
        f"docker.io/{path}{ending}",
    ):
        assert script.ecr_host(image) == ""


@patient
@given(hosts, paths, endings)
def test_a_host_is_elsewhere_in_the_name(host: str, path: str, ending: str) -> None:
    for image in (
        f"{host}{ending}",
        f"docker.io/{host}/{path}{ending}",
        f"{path}/{host}{ending}",
        f"//{host}/{path}",
    ):
        assert script.ecr_host(image) == ""


def look_alikes(host: str, word: str) -> list[str]:
    """Hosts that somebody else may own, or that are none."""
    account, _, rest = host.partition(".")
    return [
        # something before it, or after it
        *[
            f"{before}{host}"
            for before in (f"{word}.", word, f"{word}@", "AWS@", "https://", ".", " ")
        ],
        *[f"{host}{after}" for after in (f".{word}", f".{word}.example", word, f"-{word}", ":443")],
        *[f"{host}{after}" for after in (".", " ", "\n", "\0")],
        # another account
        *[f"{other}.{rest}" for other in (account[1:], f"1{account}", f"{account[:-1]}x")],
        *[rest, f"{account[:-1]}\u0665.{rest}", f"{account}.{word}.{rest}"],
        # another service, or another domain
        *[host.upper(), host.replace(".dkr", "xdkr"), host.replace("ecr", "ecrx")],
        *[host.replace("ecr.", "ecr-fipsx."), host.replace("ecr.", "ecrx")],
        *[host.replace("amazonaws", "amazonaw5"), host.replace(".com", "xcom")],
        host.replace(".on.aws", "-on.aws"),
    ]


@patient
@given(hosts, st.text(LOWER, min_size=1, max_size=8), paths)
def test_no_look_alike(host: str, word: str, path: str) -> None:
    taken_in = [
        alike
        for alike in look_alikes(host, word)
        if alike != host and script.ecr_host(f"{alike}/{path}")
    ]

    assert taken_in == []


@patient
@given(hosts, st.integers(0, 99), st.characters(exclude_characters="/"))
def test_no_host_with_a_typing_error(host: str, position: int, character: str) -> None:
    mistyped = f"{host[:position]}{character}{host[position + 1 :]}"
    found = script.ecr_host(f"{mistyped}/app:1")

    # An account or a region may become another one, nothing else may.
    assert found in ("", mistyped)
    assert not found or character in LOWER + "-."
    assert not found or found.partition(".")[2].endswith(tuple(f".{suffix}" for suffix in SUFFIXES))


@patient
@given(st.text())
def test_what_is_no_image_at_all(image: str) -> None:
    assert script.ecr_host(image) == ""


@pytest.mark.parametrize(
    "host",
    [
        "public.ecr.aws",
        "ecr.eu-central-1.amazonaws.com",
        "dkr.ecr.eu-central-1.on.aws",
        "api.ecr.eu-central-1.amazonaws.com",
        "123456789012.dkr.ecr..amazonaws.com",
        "123456789012.dkr.ecr.-.amazonaws.com",
        "123456789012.dkr.ecr.a.b.amazonaws.com",
        "123456789012.dkr.ecr.eu-central-1.amazonaws.de",
        "amazonaws.com",
        "",
    ],
)
def test_other_hosts(host: str) -> None:
    assert script.ecr_host(f"{host}/app:1") == ""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_host_names_the_region_whose_token_opens_it(suffix: str) -> None:
    for region in SUFFIXES[suffix]:
        for service in (".dkr.ecr", ".dkr-ecr-fips"):
            found = script.ECR_HOST.fullmatch(f"123456789012{service}.{region}.{suffix}")
            assert found and found[1] == region
