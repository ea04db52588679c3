"""Plays AWS in a machine, with the machine's own Python: ECR and STS under their own names, and the instance metadata."""

import json
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path

from aws_stub import Handler, over_tls

HERE = Path(__file__).resolve().parent
# Only the metadata hand it out: who signs with it has asked there.
ACCESS_KEY = "KEY-OF-THE-INSTANCE"
EXPIRATION = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
KEYS = {"AccessKeyId": ACCESS_KEY, "SecretAccessKey": "secret", "Expiration": EXPIRATION}
CREDENTIALS = "/latest/meta-data/iam/security-credentials/"
METADATA = {
    CREDENTIALS: "manager",
    CREDENTIALS + "manager": json.dumps(
        {"Code": "Success", "Type": "AWS-HMAC", "Token": "session", **KEYS}
    ),
}
ROLE = (
    "<AssumeRoleResponse xmlns='https://sts.amazonaws.com/doc/2011-06-15/'><AssumeRoleResult><Credentials>"
    + "".join(
        f"<{name}>{value}</{name}>" for name, value in {**KEYS, "SessionToken": "session"}.items()
    )
    + "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
)


class Cloud(Handler):
    """The stub of the lab, and what an EC2 instance has besides."""

    folder = HERE

    def do_PUT(self):
        self.answer(200, "text/plain", "metadata-session")

    def do_GET(self):
        self.answer(
            200 if self.path in METADATA else 404, "text/plain", METADATA.get(self.path, "")
        )

    def do_POST(self):
        if ACCESS_KEY not in self.headers["Authorization"]:
            self.refuse("AccessDeniedException", "these keys are not the instance's")
        elif b"Action=AssumeRole" in self.rfile.peek(int(self.headers["Content-Length"])):
            self.answer(200, "text/xml", ROLE)
        else:
            super().do_POST()


def main():
    api = ThreadingHTTPServer(("127.0.0.3", 443), Cloud)
    over_tls(api, HERE / "tls.crt", HERE / "tls.key")
    threading.Thread(target=api.serve_forever, daemon=True).start()
    ThreadingHTTPServer(("169.254.169.254", 80), Cloud).serve_forever()


if __name__ == "__main__":
    main()
