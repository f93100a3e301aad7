"""The one error a user can mend."""


class UserError(Exception):
    """What is wrong with which case, and what to type: two sentences, printed last."""

    def __init__(self, problem: str, fix: str, case: str = "") -> None:
        super().__init__(problem, fix, case)  # all three, or it cannot come back from a worker process
        self.problem, self.fix, self.case = problem, fix, case

    def __str__(self) -> str:
        return in_words(self.problem, self.fix, self.case)


def in_words(problem: str, fix: str, case: str = "") -> str:
    """CASE: problem. Fix."""
    where = f"{case}: " if case else ""
    return f"{where}{_ended(problem)} {_begun(_ended(fix))}".rstrip()


def _begun(text: str) -> str:
    # A path or a flag keeps its spelling.
    return text[0].upper() + text[1:] if text.partition(" ")[0].isalpha() else text


def _ended(text: str) -> str:
    text = text.strip()
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."
