"""The one exception for bad input. Knows how a refusal reads; knows nothing of what was refused."""


class WispError(Exception):
    """Bad input: what is wrong, what was got, what was expected and what to do about it, as one line.

    The command line prints it and leaves with status 2. Anything else that escapes is a bug (status 1).
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, remedy: str | None = None) -> None:
        self.what, self.got, self.expected, self.remedy = what, got, expected, remedy
        details = [f"{label} {value}" for label, value in (("got", got), ("expected", expected)) if value is not None]
        line = what + (": " + ", ".join(details) if details else "")
        if remedy is not None:
            line += f"; {remedy}"
        super().__init__(" ".join(line.split()))
