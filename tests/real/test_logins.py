"""A login counts when docker can use it: whatever befalls docker's logins, on real engines.

In no case may a live token be overwritten by an empty or a dead one without the script saying
so and exiting with 1. What a service was sent shows when a node that lacks its image has to
pull it. Needs root on Debian or Ubuntu; see lab.py and helpers.py.
"""

import json

import pytest
import table
from case import SCRIPT, Case
from engines import Unavailable
from helpers import ADDRESS, HOST, Logins
from lab import REGION, Lab, wait_until
from promise import ENDS

ENGINES_AND_CLIENTS = [stack[:2] for stack in ENDS]
ALONE = "--refresh-only"


@pytest.fixture(scope="session", params=ENGINES_AND_CLIENTS, ids="-".join)
def stack(request):
    try:
        lab = Lab(*request.param, managers=1, workers=1)
    except Unavailable as reason:
        pytest.skip(str(reason))
    with lab:
        yield lab


class Services:
    """Global services that run on the manager; in the end the worker gets their label, too.

    None may have a task that waits for a node: the script would leave it alone, and so harm none.
    """

    def __init__(self, case):
        self.case = case
        self.names = []

    def create(self, *names, config=None):
        constraint, self.label = self.case.label()
        self.case.give(self.case.manager, self.label)
        for name in names:
            self.case.create(name, "--mode", "global", constraint, config=config)
        for name in names:
            self.case.runs(name)
        self.names = list(names)

    def run(self):
        """Have a node pull; returns the names of those that cannot."""
        self.case.give(self.case.lab.workers[0], self.label)
        wait_until(self.are_decided, "each service runs, or was rejected", 60)
        return [name for name in self.names if not self.is_everywhere(name)]

    def is_everywhere(self, name):
        return len(self.case.running(name)) == 2

    def are_decided(self):
        return all(self.is_everywhere(name) or self.case.is_rejected(name) for name in self.names)

    def updated(self):
        """How often the engine was asked to update each."""
        return [self.case.updates(name) for name in self.names]


@pytest.fixture
def logins(stack):
    """A manager that is logged in."""
    logins = Logins(Case(stack, SCRIPT))
    yield logins.begin()
    logins.end()
    for service in stack.manager.api("/services"):
        stack.manager.api(f"/services/{service['ID']}", "DELETE")


@pytest.fixture
def services(logins):
    services = Services(logins.case)
    services.create("web1", "web2", "web3")
    return services


@pytest.fixture
def web(logins):
    """One service is enough where nothing happens in the middle of a batch."""
    services = Services(logins.case)
    services.create("web")
    return services


@pytest.fixture
def verdict(request, stack):
    """Say what the nodes could pull, and the exit status; compare it with what has to be."""

    def verdict(title, services, result, expected):
        state = "updated" if any(services.updated()) else "untouched"
        lost = services.run()
        runs = f"{len(lost)} cannot pull" if lost else "all run"
        observed = f"{state}; {runs}; exit {result.returncode}"
        engine = stack.manager.docker("version", "--format", "{{.Server.Version}}")
        table.record(request, title, engine.split("+")[0], SCRIPT, observed)
        assert observed == expected, result
        assert not result.returncode or "login" in result.stderr.splitlines()[-1], result

    return verdict


# ---------------------------------------------------------------- what docker holds


def no_login(logins):
    """No login"""
    logins.configure()


def expired(logins):
    """An expired login"""
    logins.config.write_text(logins.dead)


def helper_that_only_gives(logins):
    """A credential helper that stores nothing, as the ECR helper before 0.9.0"""
    logins.helper("ours", logins.gives(), keep="echo not implemented; exit 1")
    logins.configure(credHelpers={HOST: "ours"})


def helper_with_a_dead_token(logins):
    """Such a helper with a dead token"""
    logins.helper("ours", logins.gives("echo dead"), keep="echo not implemented; exit 1")
    logins.configure(credHelpers={HOST: "ours"})


def store_that_fails(logins):
    """A credential store that cannot give a login back: exit status 2"""
    logins.helper("ours", "echo the key is locked; exit 2")
    logins.configure(credsStore="ours")


def store_that_forgets(logins):
    """A credential store that cannot give a login back: credentials not found"""
    logins.helper("ours", "echo credentials not found in native keychain; exit 1")
    logins.configure(credsStore="ours")


def store_that_empties(logins):
    """A credential store that cannot give a login back: an empty secret"""
    logins.helper("ours", logins.gives("true"))
    logins.configure(credsStore="ours")


def store_that_is_missing(logins):
    """A credential store that is not installed"""
    logins.configure(credsStore="ours")


def helper_without_name(logins):
    """credHelpers with an empty value beside a store that fails: docker uses config.json"""
    logins.helper("ours", "exit 2", keep="exit 2")
    auths = json.loads(logins.config.read_text())["auths"]
    logins.configure(auths=auths, credHelpers={HOST: ""}, credsStore="ours")


def link_to_nowhere(logins):
    """config.json is a link to nowhere"""
    logins.config.unlink()
    logins.config.symlink_to(logins.case.lab.folder / "nowhere" / "config.json")


def cut_short(logins):
    """config.json is cut short"""
    text = logins.config.read_text()
    logins.config.write_text(text[: len(text) // 2])


def empty(logins):
    """config.json is empty"""
    logins.config.write_text("")


def read_only(logins):
    """The folder of config.json is read-only"""
    logins.read_only()


def read_only_and_expired(logins):
    """The folder of config.json is read-only, and its login has expired"""
    expired(logins)
    logins.read_only()


def mounted(logins):
    """config.json is mounted by itself, as into a container"""
    logins.read_only_file()


def mounted_and_expired(logins):
    """config.json is mounted by itself, and its login has expired"""
    expired(logins)
    logins.read_only_file()


def elsewhere(logins):
    """A docker that keeps its logins elsewhere, as a snap does"""
    logins.keep_elsewhere(logins.case.lab.folder / "elsewhere")


def elsewhere_without_login(logins):
    """A docker that keeps its logins elsewhere, and has none there"""
    logins.keep_elsewhere(logins.case.lab.folder / "elsewhere-empty")


UNTOUCHED, REFRESHED = "untouched; all run; exit 1", "updated; all run; exit 0"

HELD = [
    (no_login, ALONE, UNTOUCHED),
    (expired, ALONE, UNTOUCHED),
    # The client of 28 does not say that it could not store the login.
    (helper_that_only_gives, ALONE, REFRESHED),
    (helper_with_a_dead_token, ALONE, UNTOUCHED),
    (store_that_fails, "", UNTOUCHED),
    (store_that_fails, ALONE, UNTOUCHED),
    (store_that_forgets, "", UNTOUCHED),
    (store_that_empties, "", UNTOUCHED),
    (store_that_is_missing, "", UNTOUCHED),
    (helper_without_name, ALONE, REFRESHED),
    (link_to_nowhere, ALONE, UNTOUCHED),
    (cut_short, "", REFRESHED),
    (cut_short, ALONE, UNTOUCHED),
    (empty, "", REFRESHED),
    (empty, ALONE, UNTOUCHED),
    # Docker cannot replace config.json then: there is no login to lose, and nothing to lock.
    (read_only, ALONE, REFRESHED),
    (read_only_and_expired, ALONE, UNTOUCHED),
    (mounted, ALONE, REFRESHED),
    (mounted_and_expired, "", UNTOUCHED),
    (elsewhere, "", REFRESHED),
    (elsewhere_without_login, ALONE, UNTOUCHED),
]


@pytest.mark.parametrize(
    "held, option, expected",
    HELD,
    ids=[f"{held.__name__}{option}" for held, option, _ in HELD],
)
def test_what_docker_holds(logins, web, verdict, held, option, expected):
    # given
    held(logins)
    # when
    result = logins.case.refresh(*option.split())
    # then
    verdict(f"{held.__doc__} {option}".strip(), web, result, expected)


def test_link_to_nowhere(logins, web, verdict):
    # given
    link_to_nowhere(logins)
    # when
    result = logins.case.refresh()
    # then: the client of 28 puts a file in place of the link, at its second try
    expected = REFRESHED if logins.config.is_file() else UNTOUCHED
    verdict("config.json is a link to nowhere", web, result, expected)


# ---------------------------------------------------------------- the real ECR helper

HELPERS = [("bookworm", "0.6.0"), ("testing", "0.12.0")]


@pytest.mark.parametrize("release, version", [*HELPERS, ("trixie", "0.7.1")])
def test_ecr_helper(logins, web, verdict, release, version):
    # given
    logins.ecr_helper(release)
    # when
    result = logins.case.refresh(ALONE)
    # then
    verdict(f"The ECR helper {version} {ALONE}", web, result, REFRESHED)


@pytest.mark.parametrize("release, version", HELPERS)
def test_ecr_helper_beside_a_login(logins, web, verdict, release, version):
    # given
    logins.ecr_helper(release)
    # when
    result = logins.case.refresh()
    # then: those before 0.9.0 refuse every login
    expected = REFRESHED if release == "testing" else UNTOUCHED
    verdict(f"The ECR helper {version}", web, result, expected)


@pytest.mark.parametrize("release, version", HELPERS)
def test_ecr_helper_that_aws_refuses(logins, web, verdict, release, version):
    # given
    logins.ecr_helper(release)
    logins.case.lab.registries.refuse(REGION)
    # when
    result = logins.case.refresh(ALONE)
    # then
    title = f"The ECR helper {version}, refused by AWS, {ALONE}"
    verdict(title, web, result, UNTOUCHED)


@pytest.mark.parametrize("release, version", HELPERS)
def test_ecr_helper_with_a_dead_token(logins, verdict, release, version):
    # given: the service has another token than the helper, a live one
    logins.ecr_helper(release)
    config = logins.keep_dead_token()
    web = Services(logins.case)
    web.create("web", config=config)
    # when
    result = logins.case.refresh(ALONE)
    # then
    title = f"The ECR helper {version}, its cached token has died, {ALONE}"
    verdict(title, web, result, UNTOUCHED)


# ---------------------------------------------------------------- what happens meanwhile

LOGIN, PROOF, UPDATE = "login---username", f"login-{HOST}", "service-update"


def logout_before_the_first_proof(logins):
    """docker logout right after our login"""
    logins.happens("after", LOGIN, 1, logins.logout())


def logout_before_the_updates(logins):
    """docker logout between our login and the updates"""
    logins.happens("before", UPDATE, 1, logins.logout())


def logout_in_a_batch(logins):
    """docker logout in the middle of a batch"""
    logins.happens("before", UPDATE, 2, logins.logout())


def logout_after_the_batch(logins):
    """docker logout after the updates"""
    logins.happens("after", UPDATE, 3, logins.logout())


def logout_each_time(logins):
    """docker logout after each login"""
    logins.without_pauses()
    for number in range(1, 40):
        logins.happens("before", UPDATE, number, logins.logout())


def login_before_the_updates(logins):
    """Another docker login between our login and the updates"""
    logins.happens("before", UPDATE, 1, logins.login())


def login_in_a_batch(logins):
    """Another docker login in the middle of a batch"""
    logins.happens("before", UPDATE, 2, logins.login())


def dead_login_before_the_first_proof(logins):
    """A login with a dead token right after ours"""
    logins.happens("after", LOGIN, 1, logins.replace(logins.dead))


def dead_login_before_the_updates(logins):
    """A login with a dead token between our login and the updates"""
    logins.happens("before", UPDATE, 1, logins.replace(logins.dead))


def dead_login_in_a_batch(logins):
    """A login with a dead token in the middle of a batch"""
    logins.happens("before", UPDATE, 2, logins.replace(logins.dead))


def broken_in_a_batch(logins):
    """config.json is cut short while one service of a batch is updated"""
    text = logins.config.read_text()
    logins.happens("before", UPDATE, 2, logins.replace(text[: len(text) // 2], "half"))
    logins.happens("after", UPDATE, 2, logins.replace(text))


def logout_and_login_in_a_batch(logins):
    """docker logout, and login again, while one service of a batch is updated"""
    logins.happens("before", UPDATE, 2, logins.logout())
    logins.happens("after", UPDATE, 2, logins.login())


def registry_down_at_a_proof(logins):
    """The registry is down during the proof after a batch"""
    logins.happens("before", PROOF, 2, logins.registry_down())
    logins.happens("after", PROOF, 2, logins.registry_up())


def registry_down_for_longer(logins):
    """The registry is down during the proof after a batch, and the login after that"""
    logins.happens("before", PROOF, 2, logins.registry_down())
    logins.happens("after", LOGIN, 2, logins.registry_up())


MEANWHILE = [
    (logout_before_the_first_proof, REFRESHED),
    (logout_before_the_updates, REFRESHED),
    (logout_in_a_batch, REFRESHED),
    (logout_after_the_batch, REFRESHED),
    (logout_each_time, "updated; 3 cannot pull; exit 1"),
    (login_before_the_updates, REFRESHED),
    (login_in_a_batch, REFRESHED),
    (dead_login_before_the_first_proof, REFRESHED),
    (dead_login_before_the_updates, REFRESHED),
    (dead_login_in_a_batch, REFRESHED),
    # The client of 28 says "Error parsing config file", those before it "Error loading".
    (broken_in_a_batch, REFRESHED),
    # Both proofs pass: only the file tells that somebody was at it.
    (logout_and_login_in_a_batch, REFRESHED),
    (registry_down_at_a_proof, REFRESHED),
    (registry_down_for_longer, "updated; all run; exit 1"),
]


@pytest.mark.parametrize(
    "meanwhile, expected", MEANWHILE, ids=[meanwhile.__name__ for meanwhile, _ in MEANWHILE]
)
def test_meanwhile(logins, services, verdict, meanwhile, expected):
    # given
    meanwhile(logins)
    # when
    result = logins.case.refresh()
    # then
    verdict(meanwhile.__doc__, services, result, expected)


def test_held_back_after_an_empty_login(logins, services, verdict):
    # given: an empty login, and tasks that are starting when the script comes to try again
    broken_in_a_batch(logins)
    worker = logins.case.lab.workers[0]
    worker.run(["iptables", "-A", "OUTPUT", "-d", ADDRESS, "-j", "DROP"], check=True)
    add_label = f"{logins.docker} node update --label-add {services.label}=yes {worker.name}"
    logins.happens("after", UPDATE, 3, add_label)
    # when
    result = logins.case.refresh()
    worker.run(["iptables", "-F", "OUTPUT"], check=True)
    # then
    title = "config.json is cut short during an update, and its service is held back afterwards"
    verdict(title, services, result, "updated; 1 cannot pull; exit 1")


# Docker drops what a helper says when it finds nothing, and sends an empty login: nobody can see
# that from outside. The ECR helper keeps tokens in ~/.ecr, and so asks AWS once in six hours.
@pytest.mark.xfail(strict=True, reason="nobody sees a helper that fails between two proofs")
def test_helper_that_finds_nothing_in_a_batch(logins, services, verdict):
    # given
    fails = logins.meanwhile / "fails"
    nothing = "echo credentials not found in native keychain; exit 1"
    logins.helper("ours", f"if [ -e {fails} ]; then {nothing}; fi; {logins.gives()}")
    logins.configure(credHelpers={HOST: "ours"})
    logins.happens("before", UPDATE, 2, f"touch {fails}")
    logins.happens("after", UPDATE, 2, f"rm {fails}")
    # when
    result = logins.case.refresh(ALONE)
    # then
    title = "A credential helper finds nothing during one update of a batch"
    verdict(title, services, result, REFRESHED)
