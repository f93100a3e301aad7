"""The one error a user can mend."""


class UserError(Exception):
    """What is wrong with which case, and what to type: two sentences, printed last."""

    def __init__(self, problem: str, fix: str, case: str = "") -> None:
        super().__init__(problem, fix, case)  # all three, or it cannot come back from a worker process
        self.problem, self.fix, self.case = problem, fix, case

    def __str__(self) -> str:
        where = f"{self.case}: " if self.case else ""
        return f"{where}{_sentence(self.problem)} {_sentence(self.fix)}"


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
