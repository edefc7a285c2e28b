"""A token server as registries of the docker kind have one: token_server.py --help. Every request is one line of output.

It speaks docs/spec/auth of distribution: GET with Basic, POST with the grants `password` and `refresh_token`; what is asked
and not allowed is left out of the token, with 200. Tokens are JWTs by ES256 with their certificate in `x5c`, which
distribution 2 and 3 verify by `rootcertbundle`. No password and no token is ever written.

--accounts has lines `NAME:PASSWORD`. --access has lines `NAME TYPE:RESOURCE ACTIONS`, such as `robot repository:shop/* pull,push`;
the name `-` is anybody. `*` in RESOURCE stands for anything, as ACTIONS for whatever is asked.

POST /control?status=429&next=2&retry_after=30 makes the next two token requests fail.
"""

import argparse
import base64
import fnmatch
import http.server
import json
import secrets
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from datetime import datetime, timezone

COORDINATE = 32  # bytes of each of the two numbers of a P-256 signature


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: str, headers: dict | None = None):
        super().__init__(code)
        self.status = status
        self.code = code
        self.headers = headers or {}


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def raw_signature(der: bytes) -> bytes:
    """SEQUENCE { INTEGER r, INTEGER s } as JWS wants it (RFC 7518 section 3.4): r and s of full length, one after the other."""
    numbers, rest = b"", der[2:]
    for _ in "rs":
        length = rest[1]
        numbers += int.from_bytes(rest[2 : 2 + length], "big").to_bytes(COORDINATE, "big")
        rest = rest[2 + length :]
    return numbers


class Signer:
    """Signs by `openssl`: python's own library has no ECDSA."""

    def __init__(self, key: str, certificate: str):
        self.key = key
        self.certificate = base64.b64encode(ssl.PEM_cert_to_DER_cert(open(certificate).read())).decode()

    def sign(self, claims: dict) -> str:
        header = {"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]}
        signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", self.key]
        signature = subprocess.run(command, input=signed.encode(), capture_output=True, check=True).stdout
        return f"{signed}.{base64url(raw_signature(signature))}"


class Rights:
    """Who may do what: the lines of --access."""

    def __init__(self, path: str):
        lines = (line.split() for line in open(path) if line.strip() and not line.startswith("#"))
        self.rules = [(name, resource, actions.split(",")) for name, resource, actions in lines]

    def granted(self, account: str, scopes: list[str]) -> list[dict]:
        access = (self.entry(account, scope) for scope in scopes)
        return [entry for entry in access if entry["actions"]]

    def entry(self, account: str, scope: str) -> dict:
        # The name may hold a colon, as in host:port/name: what stands before the first and after the last one counts.
        kind, _, rest = scope.partition(":")
        name, colon, asked = rest.rpartition(":")
        if not colon:
            raise Refusal(400, "UNSUPPORTED")
        actions = [action for action in asked.split(",") if self.allows(account, f"{kind}:{name}", action)]
        return {"type": kind, "name": name, "actions": actions}

    def allows(self, account: str, resource: str, action: str) -> bool:
        return any(
            name in ("-", account) and fnmatch.fnmatchcase(resource, pattern) and ("*" in actions or action in actions)
            for name, pattern, actions in self.rules
        )


class TokenServer(http.server.ThreadingHTTPServer):
    request_queue_size = 256

    def __init__(self, options: argparse.Namespace):
        host, port = options.listen.rsplit(":", 1)
        super().__init__((host, int(port)), Handler)
        self.options = options
        self.signer = Signer(options.key, options.certificate)
        self.rights = Rights(options.access)
        lines = open(options.accounts).read().splitlines()
        self.accounts = dict(line.split(":", 1) for line in lines if line)
        self.refresh_tokens: dict[str, str] = {}
        self.failures: list[Refusal] = []
        self.lock = threading.Lock()
        if options.tls_certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(options.tls_certificate, options.tls_key)
            # The handshake is made by the connection's own thread.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request, client_address):
        print(f"connection ended: {sys.exc_info()[1]}", flush=True)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: TokenServer

    def do_GET(self):
        self.query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        self.answer(self.token_by_get)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urllib.parse.urlsplit(self.path)
        self.query = urllib.parse.parse_qs(url.query)
        if url.path == "/control":
            self.answer(self.control)
        else:
            self.query |= urllib.parse.parse_qs(body.decode())
            self.answer(self.token_by_post)

    def answer(self, action):
        self.account = self.granted = ""
        try:
            self.reply(200, action(), {})
        except Refusal as refusal:
            errors = {"errors": [{"code": refusal.code, "message": "no token for this request"}]}
            self.reply(refusal.status, errors, refusal.headers)

    def reply(self, status: int, answer: dict, headers: dict):
        content = json.dumps(answer).encode()
        scopes = " ".join(self.scopes())
        what = "CONTROL" if self.path.startswith("/control") else self.command
        print(f'{what} account={self.account or "-"} scopes="{scopes}" granted="{self.granted}" {status}', flush=True)
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Cache-Control": "no-store", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def one(self, name: str) -> str:
        return self.query.get(name, [""])[0]

    def scopes(self) -> list[str]:
        return " ".join(self.query.get("scope", [])).split()

    def token_by_get(self) -> dict:
        self.refuse_if_told()
        self.account = self.basic_account()
        if self.one("account") not in ("", self.account):
            raise Refusal(400, "UNSUPPORTED")
        token = self.token()
        refresh = self.refresh_token() if self.one("offline_token") == "true" else {}
        return {"token": token, "access_token": token, **self.lifetime(), **refresh}

    def token_by_post(self) -> dict:
        self.refuse_if_told()
        if not self.server.options.post:
            raise Refusal(404, "UNSUPPORTED")
        self.account = self.granted_account()
        token = self.token()
        refresh = self.refresh_token() if self.one("access_type") == "offline" else {}
        return {"access_token": token, "scope": self.granted, **self.lifetime(), **refresh}

    def basic_account(self) -> str:
        scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return ""
        if scheme.lower() != "basic":
            raise Refusal(400, "UNSUPPORTED")
        name, _, password = base64.b64decode(encoded).decode().partition(":")
        return self.checked(name, password)

    def granted_account(self) -> str:
        grant = self.one("grant_type")
        if not self.one("client_id"):
            raise Refusal(400, "UNSUPPORTED")
        if grant == "password":
            return self.checked(self.one("username"), self.one("password"))
        account = self.server.refresh_tokens.get(self.one("refresh_token"))
        if grant != "refresh_token" or account is None:
            raise self.unauthorized()
        return account

    def checked(self, name: str, password: str) -> str:
        if self.server.accounts.get(name) != password:
            self.account = name
            raise self.unauthorized()
        return name

    def unauthorized(self) -> Refusal:
        return Refusal(401, "UNAUTHORIZED", {"WWW-Authenticate": 'Basic realm="tokens"'})

    def token(self) -> str:
        options = self.server.options
        if self.one("service") != options.service:
            raise Refusal(400, "UNSUPPORTED")
        access = self.server.rights.granted(self.account, self.scopes())
        self.granted = " ".join(f"{a['type']}:{a['name']}:{','.join(a['actions'])}" for a in access)
        now = int(time.time())
        return self.server.signer.sign({
            "iss": options.issuer, "sub": self.account, "aud": options.service, "jti": secrets.token_hex(8),
            "iat": now, "nbf": now - 10, "exp": now + options.ttl, "access": access,
        })  # fmt: skip

    def lifetime(self) -> dict:
        issued = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"expires_in": self.server.options.ttl, "issued_at": issued}

    def refresh_token(self) -> dict:
        token = secrets.token_urlsafe(32)
        self.server.refresh_tokens[token] = self.account
        return {"refresh_token": token}

    def control(self) -> dict:
        headers = {"Retry-After": self.one("retry_after")} if self.one("retry_after") else {}
        refusal = Refusal(int(self.one("status") or 503), self.one("code") or "TOOMANYREQUESTS", headers)
        with self.server.lock:
            self.server.failures = [refusal] * int(self.one("next") or 1)
        return {}

    def refuse_if_told(self):
        with self.server.lock:
            if self.server.failures:
                raise self.server.failures.pop()

    def log_message(self, *_):
        """Requests are written by `reply`, without their queries."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--key", required=True, help="P-256, PEM: signs the tokens")
    parser.add_argument("--certificate", required=True, help="its certificate, PEM")
    parser.add_argument("--issuer", required=True)
    parser.add_argument("--service", required=True, help="the only one that tokens are given for")
    parser.add_argument("--accounts", required=True, metavar="FILE")
    parser.add_argument("--access", required=True, metavar="FILE")
    parser.add_argument("--ttl", type=int, default=300, help="seconds (300)")
    parser.add_argument("--no-post", dest="post", action="store_false", help="answer POST with 404, as many do")
    parser.add_argument("--tls-certificate", help="PEM: serve HTTPS")
    parser.add_argument("--tls-key")
    TokenServer(parser.parse_args()).serve_forever()


main()
