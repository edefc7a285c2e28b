"""The bystander: a client who pulls at an even pace while others attack, and notes how long each pull took."""

import multiprocessing
import os
import time

from gateway import FIRST, LOGIN, Gateway, die_with_parent, niceness
from wire import Http1, trust

ADDRESS = "127.0.0.9"
ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*"
# After this time a pull has failed: no client waits for longer.
PATIENCE = 5


class Samples:
    """The times of pulls, in seconds."""

    def __init__(self, times: list[float], failures: list[str]):
        self.times, self.failures = sorted(times), failures

    def quantile(self, share: float) -> float:
        return self.times[min(int(len(self.times) * share), len(self.times) - 1)] if self.times else float("inf")

    @property
    def p99(self) -> float:
        return self.quantile(0.99)


class Bystander:
    """A process, so that the interpreter of the attackers does not hold it up.

    A pull is due every 1/rate seconds, and its time counts from then on: while the gateway stalls, the pulls that were due
    meanwhile are late too. Every `renew` pulls it connects again, with a new TLS handshake, as a client that has just come.
    """

    def __init__(self, gateway: Gateway, targets: list[list[str]], rate: float = 100, renew: int = 10):
        self.ours, theirs = multiprocessing.Pipe()
        arguments = (theirs, gateway.target, gateway.ca, targets, rate, renew)
        self.process = multiprocessing.get_context("fork").Process(target=work, args=arguments, daemon=True)
        self.process.start()

    def during(self, act) -> Samples:
        """Returns the times of the pulls while `act` runs."""
        self.begin()
        try:
            act()
        finally:
            samples = self.end()
        return samples

    def begin(self) -> None:
        self.ours.send("begin")

    def end(self) -> Samples:
        self.ours.send("end")
        return Samples(*self.ours.recv())

    def calm(self, seconds: float) -> Samples:
        return self.during(lambda: time.sleep(seconds))

    def stop(self) -> None:
        self.ours.send("stop")
        self.process.join(PATIENCE * 2)
        self.process.kill()
        self.process.join()


class Puller:
    def __init__(self, target, ca: str, renew: int):
        self.target, self.context, self.renew = target, trust(ca, "http/1.1"), renew
        self.connection, self.pulls = None, 0

    def pull(self, paths: list[str]) -> None:
        if self.connection is None or self.pulls % self.renew == 0:
            self.drop()
            self.connection = Http1(self.target, self.context, ADDRESS, PATIENCE)
        self.pulls += 1
        for path in paths:
            answer = self.connection.ask("GET", path, {**LOGIN, "Accept": ACCEPT})
            if answer.status != 200:
                raise ValueError(f"{answer.status} for {path}: {answer.body[:120]!r}")

    def drop(self) -> None:
        if self.connection:
            self.connection.close()
        self.connection = None


def work(pipe, target, ca, targets, rate, renew) -> None:
    os.setsid()
    die_with_parent()
    niceness(FIRST, session=True)
    puller = Puller(target, ca, renew)
    turn = 0
    while pipe.recv() == "begin":
        times, failures = [], []
        due = time.monotonic()
        while not pipe.poll():
            now = time.monotonic()
            if now < due:
                time.sleep(due - now)
            try:
                puller.pull(targets[turn % len(targets)])
            except (OSError, ValueError, Exception) as error:  # noqa: BLE001
                failures.append(f"{type(error).__name__}: {error}")
                puller.drop()
            times.append(time.monotonic() - due)
            turn += 1
            due = max(due + 1 / rate, time.monotonic() - PATIENCE)
        pipe.recv()
        pipe.send((times, failures))
