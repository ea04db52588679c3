"""The logins of the pretend swarm's docker: where it keeps them, and whether they are good."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from pretend.texts import TEXTS

EXPIRED = "expired token"
DEPLOYED = "secret-eu-central-1-deployed"  # still good
OWN_LOGIN = "login of another registry"

# Credential helpers, by the name that config.json gives them: what each does with a login.
ECR_HELPER = "ecr-login"  # 0.9.0 or newer: refuses to store one, or ignores it if it is told to
OLD_ECR_HELPER = "ecr-login-0.6"  # of Debian 12: always refuses to store one
DEAD_HELPER = "ecr-login-dead"  # the same, and its own login has expired
STORE = "store"  # keeps it, and gives it back
FORGETFUL_STORE = "forgetful"  # takes it, and gives nothing back, as pass with a locked key

NOT_STORED = "error storing credentials - err: exit status 1, out: `not implemented`"
REFUSED = "login attempt to https://{}/v2/ failed with status: 401 Unauthorized"

Said = tuple[str, str, int]  # stdout, stderr, exit status


def registry_of(image: str) -> str:
    """The image's host, or the empty string for Docker Hub."""
    host, slash, _ = image.partition("/")
    return host if slash and ("." in host or ":" in host) else ""


def new_token(state: dict, region: str) -> str:
    """ECR hands out another token at each call, all of them good for 12 hours."""
    token = f"secret-{region}-{len(state['issued']) + 1}"
    state["issued"].append(token)
    return token


def token_opens(token: str, host: str) -> bool:
    """One token opens all registries of its region, and those only."""
    match = re.search(r"\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\.", host)
    return bool(match and token.startswith(f"secret-{match.group(1)}-"))


# config.json


def config_path(environ: Mapping[str, str]) -> Path:
    """Where docker keeps its logins."""
    folder = environ.get("DOCKER_CONFIG") or os.path.join(environ.get("HOME", "/"), ".docker")
    return Path(folder, "config.json")


def read_config(environ: Mapping[str, str]) -> dict:
    """The content; a client to which it makes no sense goes on with nothing."""
    try:
        return dict(json.loads(config_path(environ).read_text() or "{}"))
    except (OSError, ValueError):
        return {}


def warning(client: str, environ: Mapping[str, str]) -> str:
    """What every command says if config.json makes no sense."""
    path = config_path(environ)
    try:
        json.loads(path.read_text() or "{}")
    except FileNotFoundError:
        return ""
    except ValueError as error:
        return TEXTS[client]["config is broken"].format(path=path, error=error) + "\n"
    return ""


def helper_of(config: dict, host: str) -> str:
    """The credential helper for a host, or the empty string if the file keeps its login."""
    helpers = config.get("credHelpers") or {}
    return str(helpers[host] if host in helpers else config.get("credsStore") or "")


def held(state: dict, host: str, environ: Mapping[str, str]) -> str:
    """The login that docker finds for a host, and would send; nothing is an empty string."""
    config = read_config(environ)
    helper = helper_of(config, host)
    if helper in (ECR_HELPER, OLD_ECR_HELPER):
        region = host.split(".")[-3]
        return new_token(state, region)
    if helper == DEAD_HELPER:
        return EXPIRED
    if helper:
        return str(state["kept"].get(host, ""))
    return login_in_file(config, host)


def login_in_file(config: dict, host: str) -> str:
    """The password for a host: its key may be an address."""
    for key, login in (config.get("auths") or {}).items():
        if re.sub("^https?://", "", key).partition("/")[0] == host:
            auth = (login or {}).get("auth") or ""
            return base64.b64decode(auth).decode().partition(":")[2]
    return ""


def store(state: dict, host: str, token: str, environ: Mapping[str, str]) -> str:
    """Keep a login. Returns what the client says if it cannot."""
    config = read_config(environ)
    helper = helper_of(config, host)
    is_told_to_ignore = environ.get("AWS_ECR_IGNORE_CREDS_STORAGE") == "true"
    if helper == STORE:
        state["kept"][host] = token
    elif helper in (OLD_ECR_HELPER, DEAD_HELPER) or (
        helper == ECR_HELPER and not is_told_to_ignore
    ):
        return TEXTS[state["client"]]["not stored"].format(NOT_STORED)
    elif not helper:
        auth = base64.b64encode(f"AWS:{token}".encode()).decode()
        config["auths"] = {**(config.get("auths") or {}), host: {"auth": auth}}
        path = config_path(environ)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))
    return ""


# docker login


def log_in(state: dict, host: str, stdin: bytes, environ: Mapping[str, str]) -> Said:
    """`docker login --username AWS --password-stdin HOST`."""
    texts, token = TEXTS[state["client"]], stdin.decode().strip()
    if not token:
        return "", texts["no password"] + "\n", 1
    if not token_opens(token, host):
        return "", f"Error response from daemon: {REFUSED.format(host)}\n", 1
    problem = store(state, host, token, environ)
    if problem:
        return "", problem + "\n", 1
    return "Login Succeeded\n", where_it_lies(state, host, environ), 0


def where_it_lies(state: dict, host: str, environ: Mapping[str, str]) -> str:
    """The client's warning if config.json keeps the login, and no credential store."""
    is_in_file = not helper_of(read_config(environ), host)
    return TEXTS[state["client"]]["stored unencrypted"] + "\n" if is_in_file else ""


def prove(state: dict, host: str, environ: Mapping[str, str]) -> Said:
    """`docker login HOST` without a terminal."""
    texts, token = TEXTS[state["client"]], held(state, host, environ)
    if not token:
        return "", texts["no terminal"] + "\n", 1
    is_on_stdout = state["client"] == "20.10"
    stdout = texts["authenticating"] if is_on_stdout else ""
    stderr = "" if is_on_stdout else texts["authenticating"]
    if not token_opens(token, host):
        return stdout, f"{stderr}{texts['expired']}\n{texts['no terminal']}\n", 1
    problem = store(state, host, token, environ)
    if problem:
        return stdout, f"{stderr}{problem}\n", 1
    return f"{stdout}Login Succeeded\n", stderr + where_it_lies(state, host, environ), 0
