"""As much of AWS as a login needs: ecr:GetAuthorizationToken and sts:GetCallerIdentity.

Answers with what files say, read anew for each request: FOLDER/token-REGION holds that
region's token, and a region without such a file refuses; FOLDER/account holds the
caller's account.

    aws_stub.py FOLDER ADDRESS PORT [CERTIFICATE KEY REGISTRY]

With the last three it speaks TLS, and says that its tokens are of that registry, as credential
helpers want to hear.
"""

import base64
import json
import re
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

IDENTITY = """<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<GetCallerIdentityResult><Arn>arn:aws:iam::{account}:user/lab</Arn><UserId>LAB</UserId>
<Account>{account}</Account></GetCallerIdentityResult>
<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"""


class Handler(BaseHTTPRequestHandler):
    folder = Path()
    registry = "lab"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.headers.get("X-Amz-Target", "").endswith(".GetAuthorizationToken"):
            self.authorization_token()
        elif "Action=GetCallerIdentity" in body:
            account = (self.folder / "account").read_text()
            self.answer(200, "text/xml", IDENTITY.format(account=account))
        else:
            self.refuse("UnknownOperationException", "the stub does not know this operation")

    def authorization_token(self):
        # The region is in the signature's scope: Credential=KEY/DATE/REGION/ecr/aws4_request
        scope = re.search(r"Credential=[^/]+/\d+/([^/]+)/", self.headers["Authorization"])
        try:
            token = (self.folder / f"token-{scope.group(1)}").read_text()
        except FileNotFoundError:
            # A 4xx answer, because the AWS CLI tries a 5xx again for many seconds.
            self.refuse("AccessDeniedException", "the stub refuses this region")
            return
        data = {
            "authorizationToken": base64.b64encode(f"AWS:{token}".encode()).decode(),
            "expiresAt": time.time() + 12 * 3600,
            "proxyEndpoint": f"https://{self.registry}",
        }
        self.answer(200, "application/x-amz-json-1.1", json.dumps({"authorizationData": [data]}))

    def refuse(self, kind, message):
        self.answer(
            400, "application/x-amz-json-1.1", json.dumps({"__type": kind, "message": message})
        )

    def answer(self, status, kind, text):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


def over_tls(server, certificate, key):
    """Let that server speak TLS, and return it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def main(folder, address, port, *tls):
    Handler.folder = Path(folder)
    server = ThreadingHTTPServer((address, int(port)), Handler)
    if tls:
        certificate, key, Handler.registry = tls
        over_tls(server, certificate, key)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
