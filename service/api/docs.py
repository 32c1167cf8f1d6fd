"""The interactive documentation, from local files: clusters and laptops are often without a CDN."""

import json
from functools import cache

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

_FILES = ("fastapi_swagger", "resources")  # a package that carries Swagger UI; its own routes trust the Host header

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Swagger UI over the server's own OpenAPI document. All addresses are relative, so that prefixes keep working."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Assay",
        swagger_js_url="docs/static/swagger-ui-bundle.js",
        swagger_css_url="docs/static/swagger-ui.css",
        swagger_favicon_url="docs/static/favicon-32x32.png",
        swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
    )


def install_docs(app: FastAPI) -> None:
    """Add the page and its files to an application made with `docs_url=None` and `openapi_url=None`."""

    @cache
    def document() -> bytes:
        return json.dumps(app.openapi(), ensure_ascii=False).encode()

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        """The OpenAPI document, written once: it does not change, and takes milliseconds of the event loop."""
        return Response(document(), media_type="application/json")

    app.include_router(router)
    app.mount("/docs/static", StaticFiles(packages=[_FILES]))
