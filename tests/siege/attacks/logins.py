"""Guessed passwords, and what the time of a refusal tells."""

import itertools
import statistics
import time

from attack import SECRET, Attack, basic
from wire import address

ACCOUNTS = 4


class Guessing(Attack):
    """Passwords that are guessed from hundreds of addresses, for names that exist and others. A check takes some 60 ms."""

    name = "password guessing"
    guessers = 8
    accounts = {f"account{number}": 10 for number in range(ACCOUNTS)}

    def prepare(self):
        self.turns = itertools.count()

    def attack(self):
        self.again(self.guessers, self.guess)

    def guess(self, turn):
        number = next(self.turns)
        answer = self.log_in(number, f"account{number % (ACCOUNTS * 2)}", f"guess {number}", address(number % 600), timeout=5)
        self.count(f"status {answer.status}")

    def log_in(self, number: int, name: str, password: str, source: str, timeout: float = 30):
        return self.get("/v2/", {"Authorization": basic(name, password)}, source, timeout)

    def findings(self):
        let_in = sum(count for name, count in self.counts.items() if name not in ("status 401", "status 429", "status 503"))
        told = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        begun = time.monotonic()
        answer = self.log_in(0, "account3", SECRET, "127.0.0.8")
        took = time.monotonic() - begun
        return [
            ("no guess is let in", let_in == self.counts.get("thrown out", 0), told),
            ("another logs in right after", answer.status == 200 and took < 2, f"{answer.status} in {took:.2f} s"),
        ]


class MixedCosts(Attack):
    """A file with hashes of several costs: how long a refusal takes must not tell whether a name exists, also under load."""

    name = "timing of mixed hashes"
    crowded = False
    seconds = 14
    accounts = {"cheap": 5, "dear": 10}
    rounds = 8
    # The medians may differ by this, in either direction. A cheap hash takes a thirtieth of a dear one.
    tolerance = 1.35

    def prepare(self):
        self.times: dict[str, list[float]] = {"cheap": [], "dear": [], "unknown": []}
        self.turns = itertools.count()

    def attack(self):
        # Six guess all the time, so that the checks have to wait for each other; one measures.
        self.done = False
        self.at_once(7, lambda turn: self.measure() if turn == 0 else self.load())

    def load(self):
        while not self.done:
            self.refused("unknown")

    def measure(self):
        try:
            for _ in range(self.rounds):
                for name, times in self.times.items():
                    begun = time.monotonic()
                    self.refused(name)
                    times.append(time.monotonic() - begun)
        finally:
            self.done = True

    def refused(self, name: str) -> None:
        number = next(self.turns)
        user = f"{name}{number}" if name == "unknown" else name
        # Each from another address: what throttles an address is not what is measured.
        answer = self.get("/v2/", {"Authorization": basic(user, f"wrong {number}")}, address(number))
        self.count(f"status {answer.status}")

    def findings(self):
        medians = {name: statistics.median(times or [0]) for name, times in self.times.items()}
        slow, fast = max(medians.values()), min(medians.values())
        told = ", ".join(f"{name} {median * 1000:.0f} ms" for name, median in medians.items())
        return [("refusals take the same time", slow <= fast * self.tolerance and fast > 0, told)]


ALL = [Guessing, MixedCosts]
