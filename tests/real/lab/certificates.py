"""Certificates that sign themselves."""

import subprocess

COMMAND = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 7"


def make_certificate(certificate, key, *names):
    """A certificate and its key, for names such as DNS:example.com or IP:10.0.0.1."""
    files = ["-keyout", key, "-out", certificate]
    names = ["-subj", "/CN=lab", "-addext", f"subjectAltName={','.join(names)}"]
    subprocess.run(
        [*COMMAND.split(), *files, *names],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
