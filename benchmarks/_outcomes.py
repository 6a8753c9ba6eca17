"""What tests came to, for scripts that run some of them and keep that in a JSON."""

from typing import Any


class Outcomes:
    """What pytest says of each test."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep the outcome of the test itself, or of a set-up that failed or skipped it."""
        if report.when == "call" or report.outcome != "passed":
            self.found[report.nodeid] = report.outcome
