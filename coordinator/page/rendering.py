"""Templates, and how numbers, times and texts are written on the page."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from coordinator.page import wording
from coordinator.page.asset_files import asset_url

TEMPLATES = Path(__file__).with_name("templates")


@cache
def environment() -> Environment:
    """Jinja's environment: all text is escaped, and an unknown name is an error."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "bytes": wording.in_bytes,
        "count": wording.count,
        "percent": wording.percent,
        "number": wording.number,
        "seconds": wording.in_seconds,
        "moment": wording.moment,
    }
    made.globals["name_pattern"] = wording.NAME_PATTERN
    return made


def render(request: Request, template: str, **values: Any) -> HTMLResponse:
    """A page. What every page shows is added: who is signed in, the time, where links begin."""
    visitor = getattr(request.state, "visitor", None)
    now: datetime = request.app.state.context.clock()
    root: str = request.app.state.context.settings.page_path
    text = (
        environment()
        .get_template(template)
        .render(
            asset=asset_url,
            visitor=visitor,
            now=now,
            root=root,
            path=request.url.path,
            here=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            ago=lambda when: wording.ago(when, now),
            until=lambda when: wording.until(when, now),
            **values,
        )
    )
    return HTMLResponse(text)
