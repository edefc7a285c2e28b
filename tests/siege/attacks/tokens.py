"""Guesses at the token service, tokens of made-up keys, and requests for tokens that are no such."""

import base64
import itertools
import json
import statistics
import subprocess
import time
import urllib.parse

from attack import SECRET, Attack, Http1, basic
from attacks.logins import Guessing
from wire import address

AUTH = """
[auth.token]

[[auth.oidc]]
name = "ci"
issuer = "https://ci.example"
jwks = "UPSTREAM/_siege/keys"
audience = "dockgate"
user = "job:{sub}"
require = { sub = "team-*" }
"""


def encoded(part: bytes | str | dict) -> str:
    part = json.dumps(part) if isinstance(part, dict) else part
    return base64.urlsafe_b64encode(part.encode() if isinstance(part, str) else part).rstrip(b"=").decode()


class Issuer:
    """A platform with one RSA key, which openssl keeps."""

    def __init__(self, folder):
        self.key = str(folder / "issuer.pem")
        self.call("genrsa", "-out", self.key, "2048")
        modulus = self.call("rsa", "-in", self.key, "-noout", "-modulus").decode().strip().split("=")[1]
        self.set = {"keys": [{"kty": "RSA", "kid": "one", "use": "sig", "n": encoded(bytes.fromhex(modulus)), "e": "AQAB"}]}

    def call(self, *arguments: str, text: bytes = b"") -> bytes:
        return subprocess.run(["openssl", *arguments], input=text, capture_output=True, check=True).stdout

    def token(self, number: int, **claims) -> str:
        claims = {"iss": "https://ci.example", "aud": "dockgate", "exp": int(time.time()) + 3600, "sub": f"team-{number}", **claims}
        signed = f'{encoded({"alg": "RS256", "kid": "one"})}.{encoded(claims)}'
        return f'{signed}.{encoded(self.call("dgst", "-sha256", "-sign", self.key, text=signed.encode()))}'


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def form(name: str, password: str, scope: str = "") -> bytes:
    fields = {"grant_type": "password", "username": name, "password": password, "scope": scope}
    return urllib.parse.urlencode(fields).encode()


class Tokens(Attack):
    """Asks the token service, in both ways."""

    keys = {"auth": AUTH}

    def ask_token(self, name: str, password: str, by_post: bool, source: str, timeout: float = 30):
        client = self.gateway.client(source, timeout)
        try:
            if by_post:
                return client.ask("POST", "/token", {}, form(name, password))
            return client.ask("GET", "/token?service=dockgate", {"Authorization": basic(name, password)})
        finally:
            client.close()


class TokenGuessing(Tokens, Guessing):
    """Passwords and robots that are guessed at /token from hundreds of addresses, by GET and by POST."""

    name = "token guessing"

    def log_in(self, number, name, password, source, timeout=30):
        password = f"dgr_ey{number}.x.y" if number % 5 == 4 else password
        return self.ask_token(name, password, number % 2 == 0, source, timeout)


class TokenTimes(Tokens):
    """How long a refusal of /token takes must not tell whether a name exists, or which check of a token failed."""

    name = "timing of tokens"
    crowded = False
    seconds = 14
    accounts = {"cheap": 5, "dear": 10}
    rounds = 6
    # The medians may differ by this. A cheap hash takes a thirtieth of a dear one, a malformed token a thousandth.
    tolerance = 1.35

    def prepare(self):
        issuer = Issuer(self.gateway.work)
        self.upstream.ask("/_siege/keys", json.dumps(issuer.set).encode())
        late = issuer.token(1)
        pairs = {"cheap": "", "dear": "", "unknown": "", "robot": "dgr_x.y.z", "job": late[:-8] + "AAAAAAAA",
                 "other": issuer.token(1, iss="https://other.example"), "malformed": "x"}  # fmt: skip
        self.pairs = {(kind, by_post): password for kind, password in pairs.items() for by_post in (False, True)}
        self.times: dict[tuple[str, bool], list[float]] = {pair: [] for pair in self.pairs}
        self.turns = itertools.count()

    def attack(self):
        for _ in range(self.rounds):
            for (kind, by_post), password in self.pairs.items():
                number = next(self.turns)
                name = {"unknown": f"unknown{number}", "job": "ci", "other": "ci", "malformed": "ci"}.get(kind, kind)
                begun = time.monotonic()
                # Each from another address: what throttles an address is not what is measured.
                answer = self.ask_token(name, password or f"wrong {number}", by_post, address(number))
                self.times[kind, by_post].append(time.monotonic() - begun)
                self.count(f"status {answer.status}")

    def findings(self):
        medians = {pair: statistics.median(times or [0]) for pair, times in self.times.items()}
        slow, fast = max(medians.values()), min(medians.values())
        told = ", ".join(f"{kind}{' by POST' if post else ''} {median * 1000:.0f} ms" for (kind, post), median in medians.items())
        return [("refusals take the same time", slow <= fast * self.tolerance and fast > 0, told)]


class UnknownKeys(Tokens):
    """A flood of tokens of keys that the issuer does not have, beside jobs that log in."""

    name = "made-up keys"
    seconds = 4
    attackers = 6
    jobs = 30

    def prepare(self):
        issuer = Issuer(self.gateway.work)
        self.upstream.ask("/_siege/keys", json.dumps(issuer.set).encode())
        self.good = [issuer.token(number) for number in range(self.jobs)]
        self.turns = itertools.count()
        self.refused: list[str] = []

    def attack(self):
        self.asked = self.upstream.counters()["keys"]
        self.begun = time.monotonic()
        self.at_once(self.attackers + 1, lambda turn: self.log_in() if turn == 0 else self.flood())
        self.took = time.monotonic() - self.begun

    def log_in(self):
        for token in self.good:
            answer = self.get("/v2/", bearer(token), "127.0.0.9")
            if answer.status != 200:
                self.refused.append(f"{answer.status} {answer.body.decode()}")
            self.rest(0.1)

    def flood(self):
        claims = {"iss": "https://ci.example", "aud": "dockgate", "exp": 9_999_999_999, "sub": "team-1", "x": "y" * 20_000}
        payload = encoded(claims)
        while not self.is_over():
            number = next(self.turns)
            client = self.gateway.client(address(number % 600))
            try:
                for turn in range(20):
                    header = encoded({"alg": "RS256", "kid": f"{number}.{turn}"})
                    answer = client.ask("GET", "/v2/", bearer(f"{header}.{payload}.{encoded(bytes(256))}"))
                    self.count(f"status {answer.status}")
            finally:
                client.close()

    def findings(self):
        asked, most = self.upstream.counters()["keys"] - self.asked, 1 + self.took / 30
        told = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        return [
            ("no made-up key is let in", set(self.counts) <= {"status 401"}, told),
            ("the issuer is asked seldom", asked <= most, f"{asked} times in {self.took:.0f} s"),
            ("jobs log in meanwhile", not self.refused, f"{self.jobs} jobs, refused: {self.refused[:2]}"),
        ]


class OddRequests(Tokens):
    """Thousands of scopes, scopes with control characters, huge tokens, deep JSON, members that occur twice."""

    name = "odd requests for tokens"

    def prepare(self):
        issuer = Issuer(self.gateway.work)
        self.upstream.ask("/_siege/keys", json.dumps(issuer.set).encode())
        good = issuer.token(1)
        header, claims, signature = good.split(".")
        deep = encoded('{"a":' * 5000 + "1" + "}" * 5000)
        twice = encoded('{"alg":"RS256","kid":"one","alg":"none"}')
        many = "&".join(f"scope=repository:team/app{number}:pull,push,delete" for number in range(1200))
        controls = urllib.parse.quote("repository:a\r\nX-Evil: 1:pull repository:\x00:pull repository:\u202eb:pull \x1b[31m")
        tokens = [f"{header}.{deep}.{signature}", f"{deep}.{claims}.{signature}", f"{twice}.{claims}.{signature}", "a" * 60_000,
                  f"{header}.{'A' * 50_000}.{signature}", "." * 5000, f"{encoded({'alg': 'none'})}.{claims}."]  # fmt: skip
        right = {"Authorization": basic("account0", SECRET)}
        self.asked = [("GET", f"/token?{many}", right, b""), ("GET", f"/token?scope={controls}", right, b""),
                      ("GET", "/token?" + "&" * 60_000, right, b""), ("GET", "/token?scope=" + "%41" * 20_000, right, b""),
                      ("POST", "/token", {}, form("account0", SECRET, "repository:a:pull " * 3000)),
                      ("POST", "/token", {}, form("account0", SECRET, "x" * 100_000)), ("POST", "/token", {}, b"=&" * 30_000),
                      ("POST", "/token", {}, b"grant_type=password&" * 3000)]  # fmt: skip
        self.asked += [("GET", "/v2/", bearer(token), b"") for token in tokens]
        self.asked += [("GET", "/token", {"Authorization": basic("ci", token)}, b"") for token in tokens]
        self.asked += [("POST", "/token", {}, form("ci", token)) for token in tokens]
        self.turns = itertools.count()

    accounts = {"account0": 5}

    def attack(self):
        self.again(6, self.ask_one)

    def ask_one(self, turn):
        number = next(self.turns)
        client = Http1(self.gateway.target, self.gateway.trusted["http/1.1"], address(number % 600))
        try:
            answer = client.ask(*self.asked[number % len(self.asked)])
            self.count(f"status {answer.status}")
            if "x-evil" in answer.fields:
                self.count("a field of the scope's")
        finally:
            client.close()

    def findings(self):
        told = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        known = {"status 200", "status 400", "status 401", "status 404", "status 414", "status 431", "thrown out"}
        return [("all are refused or bounded", set(self.counts) <= known and self.counts.get("status 401", 0) > 0, told)]


ALL = [TokenGuessing, TokenTimes, UnknownKeys, OddRequests]
