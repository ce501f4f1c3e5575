"""The waits that GitHub asks for, by PyGithub's own retries: nothing is made twice, no wait is over 5 minutes.

https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
"""
from __future__ import annotations

from typing import Any

from github import GithubRetry, RateLimitExceededException
from github.GithubException import RateLimitExceededExceedsMaxWait
from urllib3.exceptions import MaxRetryError

LONGEST = 300  # seconds of one wait
SECONDARY = 60  # seconds that GitHub asks for where a limit names no time
LIMITED = (403, 429)  # answers of a rate limit; 403 is one only if its message says so


class Patience(GithubRetry):
    """Asks again after a rate limit, an error of the server or a broken connection, `attempts` times in all. `pause`
    is doubled each time, in seconds.

    A POST is sent again only after a rate limit: after any other fault GitHub may have done it, and its answer was
    lost. Raises RateLimitExceededException where the limit holds on.
    """

    @classmethod
    def of(cls, attempts: int, pause: float) -> Patience:
        return cls(total=attempts - 1, backoff_factor=pause, status_forcelist=[429, *range(500, 600)],
                   allowed_methods={"GET", "PATCH", "POST"}, raise_on_status=False, secondary_rate_wait=SECONDARY,
                   max_rate_limit_wait=LONGEST)

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:
        again = super().is_retry(method, status_code, has_retry_after)
        return again and (method != "POST" or status_code in LIMITED)

    def increment(self, method: Any = None, url: Any = None, response: Any = None, error: Any = None,
                  _pool: Any = None, _stacktrace: Any = None) -> Any:
        if error is not None and method == "POST":
            raise MaxRetryError(_pool, url, error)
        try:
            return super().increment(method, url, response, error, _pool, _stacktrace)
        except MaxRetryError:
            if response is None or response.status != 403:
                raise
            raise RateLimitExceededException(403, {"message": "rate limit"}, dict(response.headers)) from None

    def get_backoff_time(self) -> float:
        limited = self.history and self.history[-1].status == 429
        return max(SECONDARY if limited else 0.0, super().get_backoff_time())

    def get_retry_after(self, response: Any) -> float | None:
        seconds = super().get_retry_after(response)
        if seconds is not None and seconds > LONGEST:
            raise RateLimitExceededExceedsMaxWait(response.status, None, dict(response.headers), wait=seconds)
        return seconds
