"""The part of GitHub's REST API that alerts use, as a real HTTP server on loopback.

    with serve() as github:
        ...                          # github.url, github.issues, github.requests
        github.fail("POST /issues", 502)          # answers to come, in order

https://docs.github.com/en/rest/issues
"""
from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "ghs_loopbackloopbackloopback"
REPOSITORY = "example/attention-perf"
BOT = "github-actions[bot]"
Answer = tuple[int, Any, dict[str, str]]


@dataclass
class Fault:
    """Is the next answer to a request: instead of doing it, or after it is done (an answer that gets lost)."""

    request: str  # "POST /issues": a method, and how the path below the repository begins
    status: int = 500
    message: str = "Server Error"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0  # until the answer
    done: bool = False


@dataclass
class State:
    """Holds what the server has, and what it was asked."""

    url: str = ""
    login: str | None = None  # of a personal token; None is a workflow's, which may not ask
    assignable: tuple[str, ...] = ("ada",)
    labelling: bool = True  # whether the account may set labels; if not they are dropped, as GitHub does
    issues: dict[int, dict[str, Any]] = field(default_factory=dict)
    comments: dict[int, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    posts: list[Any] = field(default_factory=list)  # to the webhook
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, request: str, status: int = 500, message: str = "Server Error", *, seconds: float = 0.0,
             done: bool = False, times: int = 1, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults += [Fault(request, status, message, named, seconds, done) for _ in range(times)]

    @property
    def open(self) -> list[dict[str, Any]]:
        return [issue for issue in self.issues.values() if issue["state"] == "open" and "pull_request" not in issue]

    def add(self, body: str, login: str = BOT, labels: tuple[str, ...] = (), **fields: Any) -> int:
        """Adds an issue that is there already; with `pull_request={}` a pull request."""
        number = len(self.issues) + 1
        at = f"{self.url}/repos/{REPOSITORY}/issues/{number}"
        self.issues[number] = {"number": number, "id": number, "url": at, "state": "open", "title": "", "body": body,
                               "user": {"login": login}, "labels": [{"name": name} for name in labels],
                               "assignees": []} | fields
        return number

    def say(self, number: int, body: str, login: str = BOT) -> int:
        """Adds a comment that is there already."""
        at = len(self.comments) + 1
        self.comments[at] = {"id": at, "issue": number, "body": body, "user": {"login": login},
                             "url": f"{self.url}/repos/{REPOSITORY}/issues/comments/{at}"}
        return at

    def answer(self, method: str, path: str, query: dict[str, str], given: dict[str, Any]) -> Answer:
        if path == "/user":
            return (200, {"login": self.login}, {}) if self.login else (
                403, {"message": "Resource not accessible by integration"}, {})
        below = path.removeprefix(f"/repos/{REPOSITORY}")
        if below == path:
            return 404, {"message": "Not Found"}, {}
        if below == "/issues":
            return self._listed(path, query) if method == "GET" else self._made(given)
        if found := re.fullmatch(r"/issues/(\d+)/comments", below):
            return self._said(path, int(found[1]), query, given if method == "POST" else None)
        if found := re.fullmatch(r"/issues/(?:(comments)/)?(\d+)", below):
            held = (self.comments if found[1] else self.issues).get(int(found[2]))
            if held is None:
                return 404, {"message": "Not Found"}, {}
            if method == "PATCH":
                held |= given
            return 200, held, {}
        return 404, {"message": "Not Found"}, {}

    def _listed(self, path: str, query: dict[str, str]) -> Answer:
        labels = set(filter(None, query.get("labels", "").split(",")))
        return self._paged(path, query, [
            issue for issue in self.issues.values()
            if query.get("state", "open") in ("all", issue["state"])
            and labels <= {label["name"] for label in issue["labels"]}])

    def _made(self, given: dict[str, Any]) -> Answer:
        if unknown := [name for name in given.get("assignees", ()) if name not in self.assignable]:
            return 422, {"message": "Validation Failed", "errors": [{"field": "assignees", "value": unknown[0]}]}, {}
        labels = tuple(given.get("labels", ())) if self.labelling else ()
        number = self.add(given["body"], self.login or BOT, labels, title=given["title"],
                          assignees=[{"login": name} for name in given.get("assignees", ())])
        return 201, self.issues[number], {}

    def _said(self, path: str, number: int, query: dict[str, str], given: dict[str, Any] | None) -> Answer:
        if given is None:
            return self._paged(path, query, [one for one in self.comments.values() if one["issue"] == number])
        return 201, self.comments[self.say(number, given["body"], self.login or BOT)], {}

    def _paged(self, path: str, query: dict[str, str], found: list[Any]) -> Answer:
        size, page = int(query.get("per_page", 30)), int(query.get("page", 1))
        size = min(size, 3)  # so that tests turn pages
        rest = "&".join(f"{name}={value}" for name, value in query.items() if name != "page")
        more = {"Link": f'<{self.url}{path}?{rest}&page={page + 1}>; rel="next"'} if page * size < len(found) else {}
        return 200, found[(page - 1) * size:page * size], more


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer of two writes would wait for the client's 40 ms
    server: Server

    def do(self) -> None:
        state, parts = self.server.state, urlsplit(self.path)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        asked = f"{self.command} {parts.path.removeprefix(f'/repos/{REPOSITORY}')}"
        with state.lock:
            state.requests.append(asked)
            state.agents.add(self.headers.get("User-Agent", ""))
            fault = next((one for one in state.faults if asked.startswith(one.request)), None)
            if fault:
                state.faults.remove(fault)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/hook":
            state.posts.append(body)
            answer: Answer = 200, {}, {}
        elif self.headers.get("Authorization") != f"token {TOKEN}":
            answer = 401, {"message": "Bad credentials"}, {}
        elif fault and not fault.done:
            answer = 500, {}, {}
        else:
            with state.lock:
                answer = state.answer(self.command, parts.path, query, body)
        if fault:
            time.sleep(fault.seconds)
            answer = fault.status, {"message": fault.message}, fault.headers
        self._reply(*answer)

    do_GET = do_POST = do_PATCH = do

    def _reply(self, status: int, body: Any, headers: dict[str, str]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json; charset=utf-8", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has lost its patience
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, state: State) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.state = state


@contextmanager
def serve() -> Iterator[State]:
    """Gives a server without issues, until the block ends."""
    state = State()
    server = Server(state)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
