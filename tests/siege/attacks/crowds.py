"""Connections without end."""

from attack import Attack, attempt
from wire import address, connect


class Crowd(Attack):
    """A limit of connections, and more that come."""

    keys = {"server": "max_connections = 200"}
    connections = 600
    speaks = False

    def attack(self):
        pieces = 20
        self.at_once(pieces, lambda turn: self.come(turn, self.connections // pieces))
        self.rest(60)

    def come(self, turn: int, number: int) -> None:
        for index in range(number):
            who = self.source(turn * number + index)
            # Some are silent, others log in with TLS and stay.
            opened = attempt(self.gateway.client, who, 2) if self.speaks else attempt(connect, self.gateway.target, who, 2)
            if self.keep(opened):
                self.count("open")

    def source(self, number: int) -> str:
        raise NotImplementedError


class OneAddress(Crowd):
    """A host that takes all connections, before any login."""

    name = "crowd of one address"

    def source(self, number):
        return address(0)


class OneAddressSpeaks(OneAddress):
    """The same, with TLS handshakes that end, and then silence."""

    name = "crowd of one, with TLS"
    speaks = True
    seconds = 4


class ManyAddresses(Crowd):
    """Silent connections from as many addresses: those that have not made a handshake go first."""

    name = "crowd of many addresses"

    def source(self, number):
        return address(number)


ALL = [OneAddress, OneAddressSpeaks, ManyAddresses]
