"""What docker says, by the release of its client: the texts change, and the script has to know both.

docker/cli of v20.10.24, v28.5.2 and v29.7.2: cli/command/registry/login.go, cli/config/config.go,
cli/command/service/inspect.go.
"""

from __future__ import annotations

# The daemon's, which a client shows after "Error response from daemon: ".
OF_THE_DAEMON = {
    "worker": "This node is not a swarm manager. Worker nodes can't be used to view or modify"
    " cluster state. Please run this command on a manager node or promote the current node to a"
    " manager.",
    "none": 'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to'
    " connect this node to swarm and try again.",
    "locked": "Swarm is encrypted and needs to be unlocked before it can be used. Please use"
    ' "docker swarm unlock" to unlock it.',
}
OF_28 = {
    **OF_THE_DAEMON,
    "down": "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker"
    " daemon running?",
    "before no such service": "Error: ",
    "no terminal": "Error: Cannot perform an interactive login from a non TTY device",
    "no password": "Error: Cannot perform an interactive login from a non TTY device",
    "authenticating": "Authenticating with existing credentials... [Username: AWS]\n\ni Info → To"
    " login with a different account, run 'docker logout' followed by 'docker login'\n\n\n",
    "expired": "Stored credentials invalid or expired",
    "not stored": "Error saving credentials: {}",
    "stored unencrypted": "\nWARNING! Your credentials are stored unencrypted in"
    " '/root/.docker/config.json'.\nConfigure a credential helper to remove this warning. See\n"
    "https://docs.docker.com/go/credential-store/\n",
    "config is broken": "WARNING: Error parsing config file ({path}): {error}",
}
# By the client.
TEXTS = {
    "20.10": {
        **OF_28,
        "authenticating": "Authenticating with existing credentials...\n",
        "stored unencrypted": "WARNING! Your password will be stored unencrypted in"
        " /root/.docker/config.json.\nConfigure a credential helper to remove this warning. See\n"
        "https://docs.docker.com/engine/reference/commandline/login/#credentials-store\n",
        "config is broken": "WARNING: Error loading config file: {path}: {error}",
    },
    "28": OF_28,
    "29": {
        **OF_28,
        "down": "failed to connect to the docker API at unix:///var/run/docker.sock; check if the"
        " path is correct and if the daemon is running: dial unix /var/run/docker.sock: connect:"
        " no such file or directory",
        "before no such service": "",
        "no terminal": "error: cannot perform an interactive login from a non-TTY device",
        "no password": "password is empty",
        "not stored": "error saving credentials: {}",
    },
}
