"""A scan of the catalog for names that may not be seen."""

import re

from attack import LOGIN, Attack

RULES = """
[[access]]
users = ["*"]
repositories = ["app/**"]
actions = ["pull"]

[[access]]
users = ["*"]
repositories = ["**"]
actions = ["catalog"]
"""
VISIBLE = [f"app/service-{number:02}" for number in range(12)] + ["app/zz"]
SECRET = "finance/layoffs-2027"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-/"


class Scan(Attack):
    """Pages from places all around an invisible name. They must be the same pages with another name there, or with none."""

    name = "catalog scan"
    keys = {"access": RULES}
    seconds = 6

    def prepare(self):
        # Every beginning of the name, and every name that goes on otherwise after it.
        beginnings = [SECRET[:end] for end in range(len(SECRET) + 1)]
        self.places = [beginning + letter for beginning in beginnings for letter in ["", *LETTERS[::6]]]

    def attack(self):
        self.pages = [self.scan(catalog) for catalog in (
            [*VISIBLE, SECRET],
            [*VISIBLE, "finance/other", "finance/zero"],
            [*VISIBLE, *(f"finance/{number:03}" for number in range(300))],
        )]  # fmt: skip

    def scan(self, catalog: list[str]) -> list:
        self.upstream.ask("/_siege/catalog", "\n".join(catalog).encode())
        client = self.keep(self.gateway.client())
        pages = []
        for place in self.places:
            for count in (1, 50):
                self.count("requests")
                answer = client.ask("GET", f"/v2/_catalog?n={count}&last={place}", LOGIN)
                pages.append((place, count, self.seen(client, answer)))
        return pages

    def seen(self, client, answer) -> tuple:
        """Returns all that a client sees: the pages as far as there are links."""
        pages = []
        for _ in range(6):
            link = re.match(r"<([^>]*)>", answer.fields.get("link", ""))
            pages.append((answer.status, answer.body, bool(link)))
            if not link:
                break
            answer = client.ask("GET", link[1].removeprefix(f"https://{client.host}"), LOGIN)
        return tuple(pages)

    def findings(self):
        first, *others = self.pages
        differing = {place for pages in others for one, other in zip(first, pages) if one != other for place in [one[0]]}
        names = b"".join(page for _, _, pages in first for _, page, _ in pages)
        told = f"{self.counts['requests']} requests" + (f", pages differ from {sorted(differing)[:3]}" if differing else "")
        return [
            ("an invisible name is not named", b"finance" not in names and b"app/zz" in names, told),
            ("pages do not depend on it", not differing, told),
        ]


ALL = [Scan]
