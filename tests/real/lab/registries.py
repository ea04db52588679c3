"""The other side of the network: registries under ECR host names, and AWS.

One real docker-registry a region, since one ECR token serves all registries of a region
in any account, and one for a private registry that is not ECR's. All of them share one
store, so an image is pushed once and is under every host name.
"""

import gzip
import hashlib
import io
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from lab.certificates import make_certificate
from lab.host import Host

SWITCH_ADDRESS = "10.99.0.1"
AWS_ADDRESS = "10.99.0.2"
AWS_PORT = 4566
ACCOUNT, OTHER_ACCOUNT = "123456789012", "210987654321"
REGION, OTHER_REGION = "eu-central-1", "us-east-1"
PRIVATE, PRIVATE_USER, PRIVATE_PASSWORD = "registry.example.com", "builder", "private-password"

# A subset of busybox is enough; every image is this one layer.
APPLETS = ("sh", "sleep", "true", "false")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
MEDIA = "application/vnd.docker."

CONFIG = """
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: "{folder}/store"}}}}
http: {{addr: "{address}:443", secret: lab,
       tls: {{certificate: "{folder}/cert.pem", key: "{folder}/key.pem"}}}}
auth: {{htpasswd: {{realm: lab, path: "{folder}/{name}.htpasswd"}}}}
"""


def ecr_host(account=ACCOUNT, region=REGION):
    return f"{account}.dkr.ecr.{region}.amazonaws.com"


# Registry by name: its address and the host names that lead to it.
REGISTRIES = {
    REGION: ("10.99.0.3", [ecr_host(ACCOUNT, REGION), ecr_host(OTHER_ACCOUNT, REGION)]),
    OTHER_REGION: (
        "10.99.0.4",
        [ecr_host(ACCOUNT, OTHER_REGION), ecr_host(OTHER_ACCOUNT, OTHER_REGION)],
    ),
    PRIVATE: ("10.99.0.5", [PRIVATE]),
}


class Registries:
    """Registries and AWS on a host of their own, which is also the switch between all hosts."""

    def __init__(self, lab_folder):
        self.host = Host("registries", lab_folder)
        self.folder = self.host.folder
        self.aws_folder = self.folder / "aws"
        self.certificate = self.folder / "cert.pem"
        self.tokens = {}
        self._layer = None

    @staticmethod
    def names():
        """The lines of /etc/hosts that lead to the registries."""
        return [f"{address} {' '.join(hosts)}" for address, hosts in REGISTRIES.values()]

    def start(self):
        self.host.power_on()
        addresses = [SWITCH_ADDRESS, AWS_ADDRESS, *(address for address, _ in REGISTRIES.values())]
        # A bridge without an address of its own takes the lowest of its ports', and so would
        # be lost to its neighbours for a while whenever a host is plugged in.
        self.host.ip(
            "link add switch address 02:00:00:00:00:01 type bridge",
            "link set switch up",
            *(f"address add {address}/24 dev switch" for address in addresses),
        )
        self.aws_folder.mkdir()
        (self.aws_folder / "account").write_text(ACCOUNT)
        names = [f"DNS:{host}" for _, hosts in REGISTRIES.values() for host in hosts]
        make_certificate(self.certificate, self.folder / "key.pem", *names)
        self._set_password(PRIVATE, PRIVATE_USER, PRIVATE_PASSWORD)
        self.rotate()
        self.play_aws(AWS_PORT)
        for name, (address, _) in REGISTRIES.items():
            self._start_registry(name, address)

    def play_aws(self, port, *certificate):
        """Answer as AWS does at a port; with a certificate, its key and a registry, over TLS."""
        stub = Path(__file__).with_name("aws_stub.py")
        self.host.daemon([sys.executable, stub, self.aws_folder, AWS_ADDRESS, port, *certificate])

    def connect(self, host, address):
        """A cable from the switch to that host."""
        ends = f"{host.name} netns {self.host.pid} type veth peer name eth0 netns {host.pid}"
        subprocess.run(["ip", "link", "add", *ends.split()], check=True)
        self.host.ip(f"link set {host.name} master switch up")
        host.ip(
            f"address add {address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {SWITCH_ADDRESS}",
        )

    def rotate(self, region=None):
        """New tokens: from now on every older one is refused, as after its 12 hours."""
        for name in [region] if region else [name for name in REGISTRIES if name != PRIVATE]:
            self.tokens[name] = f"token-{name}-{secrets.token_hex(16)}"
            self._set_password(name, "AWS", self.tokens[name])
            self.answer(name)

    def refuse(self, region):
        """AWS refuses to give that region's token, until `answer` or `rotate`."""
        (self.aws_folder / f"token-{region}").unlink()

    def answer(self, region):
        replace(self.aws_folder / f"token-{region}", self.tokens[region])

    def _set_password(self, registry, user, password):
        """The registry reads its htpasswd file again when it changes."""
        command = ["htpasswd", "-niB", "-C", "4", user]
        hashed = subprocess.check_output(command, input=password, text=True)
        replace(self.folder / f"{registry}.htpasswd", hashed)

    def _start_registry(self, name, address):
        config = self.folder / f"{name}.yml"
        config.write_text(CONFIG.format(address=address, folder=self.folder, name=name))
        self.host.daemon(["docker-registry", "serve", config], env={"PATH": os.environ["PATH"]})

    def push(self, command, tag):
        """Put an image app:TAG that runs `command` into the registries' store.

        Written there as docker push would have stored it, so that no node has had it.
        """
        if self._layer is None:
            self._layer = layer()
        packed, plain_digest = self._layer
        config = {
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            # A signal that `sleep`, as the container's first process, does not ignore.
            "config": {
                "Cmd": command,
                "StopSignal": "SIGKILL",
                "Labels": {"tag": tag},
                "Env": ["PATH=/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [plain_digest]},
        }
        kind = MEDIA + "distribution.manifest.v2+json"
        manifest = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": self._blob(dumped(config), MEDIA + "container.image.v1+json"),
            "layers": [self._blob(packed, MEDIA + "image.rootfs.diff.tar.gzip")],
        }
        digest = self._blob(dumped(manifest), kind)["digest"]
        for place in ("revisions", f"tags/{tag}/index"):
            self._link(f"_manifests/{place}/{digest.replace(':', '/')}", digest)
        self._link(f"_manifests/tags/{tag}/current", digest)

    def _blob(self, content, kind):
        name = hashlib.sha256(content).hexdigest()
        digest = f"sha256:{name}"
        path = self.folder / "store/docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
        if not path.exists():
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
        self._link(f"_layers/sha256/{name}", digest)
        return {"mediaType": kind, "size": len(content), "digest": digest}

    def _link(self, place, digest):
        path = self.folder / "store/docker/registry/v2/repositories/app" / place / "link"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(digest)


def dumped(document):
    return json.dumps(document).encode()


def layer():
    """(tar.gz, digest of the tar) of a root file system with busybox."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        archive.add(Path(shutil.which("busybox")).resolve(), "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    digest = hashlib.sha256(plain.getvalue()).hexdigest()
    return gzip.compress(plain.getvalue(), 1), f"sha256:{digest}"


def replace(path, text):
    """Write a file in one step, so that no reader sees half of it."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text)
    draft.replace(path)
