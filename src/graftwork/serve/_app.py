"""The application: its addresses, and what each answers."""

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from graftwork._version import __version__
from graftwork.reports import SECTIONS, page_script, page_style
from graftwork.serve._actions import Actions
from graftwork.serve._draw import LIVE, Drawings, OpenData, comparison_figures
from graftwork.serve._events import MOST_STREAMS, Events
from graftwork.serve._guard import Guard
from graftwork.serve._shelf import Shelf, Snapshot
from graftwork.serve._tell import checkpoints, doubts, summary


@cache
def _own(name: str) -> str:
    return files("graftwork.serve").joinpath(name).read_text(encoding="utf-8")


_MOST_COMPARED = 20
_STATIC: dict[str, tuple[Callable[[], str], str]] = {
    "report.css": (page_style, "text/css"),
    "report.js": (page_script, "text/javascript"),
    "live.css": (lambda: _own("static/live.css"), "text/css"),
    "live.js": (lambda: _own("static/live.js"), "text/javascript"),
    "icon.svg": (lambda: _own("static/icon.svg"), "image/svg+xml"),
}


def make_app(
    shelf: Shelf, *, token: str, open_data: OpenData | None = None, most_streams: int = MOST_STREAMS
) -> Starlette:
    """Make the application.

    Args:
        shelf: The runs.
        token: Secret that opens the page.
        open_data: Gives images and names of files; None leaves pictures out.
        most_streams: Streams of events that may be open at once.
    """
    pages = _Pages(shelf, Drawings(open_data), Events(shelf, most=most_streams))
    return Starlette(
        routes=[
            Route("/", pages.index),
            Route("/rows", pages.rows),
            Route("/compare", pages.compare),
            Route("/compare/part", pages.compared),
            Route("/events", pages.news),
            Route("/static/{name}", pages.static),
            Route("/runs/{run}", pages.run),
            Route("/runs/{run}/state", pages.state),
            Route("/runs/{run}/{action:str}", pages.act, methods=["POST"]),
            Route("/runs/{run}/{section}", pages.section),
        ],
        middleware=[Middleware(Guard, token=token), Middleware(GZipMiddleware, compresslevel=5)],
        exception_handlers={HTTPException: _failed},
    )


class _Pages:
    """Answers to requests; a run is looked up by its id, which is never made a path."""

    def __init__(self, shelf: Shelf, drawings: Drawings, events: Events) -> None:
        self._shelf, self._drawings, self._events = shelf, drawings, events
        self._actions, self._drawing = Actions(), anyio.Lock()

    def _find(self, request: Request) -> Snapshot:
        found = self._shelf.find(request.path_params["run"])
        if found is None:
            raise HTTPException(404, "There is no such run; it may have been moved.")
        return found

    def _chosen(self, request: Request) -> list[Snapshot]:
        wanted = request.query_params.getlist("run")
        found = [one for one in self._shelf.snapshots() if one.id in wanted]
        if not 1 <= len(found) <= _MOST_COMPARED:
            raise HTTPException(400, f"Expected 1 to {_MOST_COMPARED} runs to compare, got {len(found)}.")
        return found

    # Pages -----------------------------------------------------------------------------------------------------------

    def index(self, request: Request) -> Response:
        """The list of runs."""
        return _page("index.html.jinja", runs=list(map(summary, self._shelf.snapshots())))

    def run(self, request: Request) -> Response:
        """The page of a run, whose sections come later."""
        one = self._find(request)
        return _page("run.html.jinja", sections=SECTIONS, live=LIVE, **self._standing(one))

    def compare(self, request: Request) -> Response:
        """The page that compares runs."""
        return _page("compare.html.jinja", **self._comparison(self._chosen(request)))

    # Parts of pages --------------------------------------------------------------------------------------------------

    def rows(self, request: Request) -> Response:
        """The rows of the list of runs."""
        return _part("index.html.jinja", "rows", runs=list(map(summary, self._shelf.snapshots())))

    def state(self, request: Request) -> Response:
        """State, numbers and checkpoints of a run, and what can be done to it."""
        return _part("run.html.jinja", "state", **self._standing(self._find(request)))

    async def section(self, request: Request) -> Response:
        """A section of a run's report."""
        name = request.path_params["section"]
        if name not in SECTIONS:
            raise HTTPException(404, "There is no such section.")
        one = await run_in_threadpool(self._find, request)
        html = self._drawings.kept(one, name)
        if html is None:
            async with self._drawing:  # who waits holds no thread
                html = await run_in_threadpool(self._drawings.draw, one, name)
        return HTMLResponse(html)

    async def compared(self, request: Request) -> Response:
        """Table and figures that compare runs."""
        chosen = await run_in_threadpool(self._chosen, request)
        async with self._drawing:
            figures = await run_in_threadpool(comparison_figures, chosen)
        return _part("compare.html.jinja", "part", **self._comparison(chosen, figures))

    def _standing(self, one: Snapshot) -> dict[str, Any]:
        return {"one": summary(one), "checkpoints": checkpoints(one), "note": self._actions.note(one)}

    def _comparison(self, chosen: list[Snapshot], figures: list[str] | None = None) -> dict[str, Any]:
        from markupsafe import Markup

        drawn = [Markup(figure) for figure in figures or ()]  # noqa: S704  # of our own drawings
        return {"runs": list(map(summary, chosen)), "doubts": doubts(chosen), "figures": drawn}

    # The rest --------------------------------------------------------------------------------------------------------

    def news(self, request: Request) -> Any:
        """The stream of events."""
        return self._events.response(frozenset(request.query_params.getlist("run")))

    def act(self, request: Request) -> Response:
        """Stop or resume a run."""
        actions = {"stop": self._actions.stop, "resume": self._actions.resume}
        action = actions.get(request.path_params["action"])
        if action is None:
            raise HTTPException(404, "There is no such action.")
        one = self._find(request)
        action(one)
        return RedirectResponse(f"/runs/{one.id}", 303)

    def static(self, request: Request) -> Response:
        """A style sheet, a script, or the icon."""
        if request.path_params["name"] not in _STATIC:
            raise HTTPException(404, "There is no such file.")
        read, kind = _STATIC[request.path_params["name"]]
        return Response(read(), media_type=kind)


def _failed(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    return _page("message.html.jinja", status=status, text=str(getattr(error, "detail", error)))


def _page(template: str, *, status: int = 200, **context: Any) -> Response:
    return HTMLResponse(_templates().get_template(template).render(version=__version__, **context), status)


def _part(template: str, block: str, **context: Any) -> Response:
    found = _templates().get_template(template)
    return HTMLResponse("".join(found.blocks[block](found.new_context(context))))


@cache
def _templates() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    loader = FunctionLoader(lambda name: _own(f"templates/{name}"))
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
