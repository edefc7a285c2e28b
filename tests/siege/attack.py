"""An attack, and the siege that it is a part of."""

import threading
import time

from gateway import LAST, LOGIN, SECRET, Gateway, niceness, within
from wire import Broken, Http1, attempt, basic

MIB = 1024 * 1024


class Attack:
    """One kind of attack. Subclasses say what they send, and what must hold besides the bystander's pulls."""

    # What the table calls it.
    name = ""
    # Keys of the gateway's configuration: see CONFIGURATION in gateway.py.
    keys: dict[str, str] = {}
    # Users besides the bystander, and the costs of their hashes. Their password is SECRET.
    accounts: dict[str, int] = {}
    # Seconds in the quick form, and whether it has the attack.
    seconds = 2.5
    quick = True
    # False: the gateway is attacked while the bystander only rests, as what is measured are times of its own.
    crowded = True

    def __init__(self, gateway: Gateway):
        self.gateway, self.upstream = gateway, gateway.upstream
        self.deadline = 0.0
        self.open: list = []
        self.lock = threading.Lock()
        self.counts: dict[str, int] = {}

    def prepare(self) -> None:
        """Puts in place what the attack needs, in calm."""

    def attack(self) -> None:
        """Attacks until `is_over`."""

    def run(self, seconds: float, deadline: float) -> None:
        """Attacks until the deadline: once, or again and again for that long each time."""
        while (left := deadline - time.monotonic()) > 0:
            self.deadline = time.monotonic() + min(seconds, left)
            self.attack()
            if deadline - time.monotonic() > 1:
                self.release()

    def release(self) -> None:
        """Leaves: closes what the attack has opened."""
        with self.lock:
            connections, self.open = self.open, []
        for connection in connections:
            connection.close()

    def findings(self) -> list[tuple[str, bool, str]]:
        """Returns what must hold besides: its words, whether it does, and the figures."""
        return []

    def is_over(self) -> bool:
        return time.monotonic() > self.deadline

    def rest(self, seconds: float) -> None:
        """Waits, at most until the attack is over."""
        time.sleep(max(min(seconds, self.deadline - time.monotonic()), 0))

    def keep(self, connection):
        """Remembers a connection, which is closed when the attack is over."""
        if connection is not None:
            with self.lock:
                self.open.append(connection)
        return connection

    def count(self, name: str, more: int = 1) -> None:
        with self.lock:
            self.counts[name] = self.counts.get(name, 0) + more

    def at_once(self, number: int, work) -> None:
        """Calls work(0) to work(number - 1), each in a thread, and waits for all."""

        def run(turn: int) -> None:
            niceness(LAST)
            try:
                work(turn)
            except (OSError, Broken, ValueError):
                self.count("thrown out")

        threads = [threading.Thread(target=run, args=(turn,), daemon=True) for turn in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def again(self, number: int, work) -> None:
        """Does each piece of work again and again until the attack is over."""

        def run(turn: int) -> None:
            while not self.is_over():
                try:
                    work(turn)
                except (OSError, Broken, ValueError):
                    self.count("thrown out")
                    self.rest(0.05)

        self.at_once(number, run)

    def get(self, path: str, fields: dict[str, str] | None = None, source: str = "127.0.0.1", timeout: float = 30):
        """Asks once, on a new connection."""
        client = self.gateway.client(source, timeout)
        try:
            return client.ask("GET", path, {**LOGIN, **(fields or {})})
        finally:
            client.close()


__all__ = ["LOGIN", "MIB", "SECRET", "Attack", "Broken", "Http1", "attempt", "basic", "within"]
