"""The page itself, made with gradio. Import it after `require_gradio`."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from arspm import SpeechPortrait
from arspm.demo_page.faces import LIMITS, draw_faces, faces_html, problem_html

MISSING = "gradio is not installed: run `pip install 'arspm[page]'`"
MAX_BYTES = 100_000_000  # of a recording

_KEPT_SECONDS = 600  # a recording that was sent and never drawn
_PRIVACY = (
    "Recordings stay on this machine and are not kept: each is deleted once it is drawn, or after ten minutes. "
    "The first six seconds of speech are enough."
)
_STYLE = """
.faces { display: flex; flex-wrap: wrap; gap: 16px; }
.faces figure { margin: 0; width: 208px; }
.faces img { width: 208px; height: 208px; border-radius: 6px; }
.faces figure:first-child img { outline: 3px solid var(--color-accent); outline-offset: 2px; }
.faces figcaption { font-size: 14px; line-height: 1.45; margin-top: 6px; }
.limits { max-width: 68ch; }
.problem { border-left: 4px solid #d03030; padding-left: 12px; }
"""


def require_gradio() -> Any:
    """Return gradio. Raises ValueError, in one line, if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError(MISSING) from None
    return gradio


def answer(model: SpeechPortrait, means: Mapping[str, Tensor], path: str | None, uploads: Path) -> str:
    """Return what the page shows for a recording that it has sent, as HTML, and delete the recording.

    path: the file that gradio wrote below `uploads`; None if nothing was recorded.
    """
    if path is None:
        return problem_html("there is no recording yet: record something or drop a file first")
    file = Path(path).resolve()
    if uploads.resolve() not in file.parents:
        return problem_html("only recordings of this page are drawn")
    try:
        with file.open("rb") as recording:
            return faces_html(draw_faces(model, means, recording))
    except FileNotFoundError:
        return problem_html("the recording has been deleted; record it again")
    except (ValueError, OSError) as error:
        return problem_html(str(error))
    except Exception:
        logging.exception("the recording could not be drawn")
        return problem_html("the recording could not be drawn; the terminal says why")
    finally:
        shutil.rmtree(file.parent, ignore_errors=True) if file.parent != uploads.resolve() else file.unlink(True)


def build(model: SpeechPortrait, means: Mapping[str, Tensor], uploads: Path, root: str) -> Any:
    """Return the page as an ASGI application below the path `root`."""
    gradio = require_gradio()
    from fastapi import FastAPI

    with gradio.Blocks(
        title="Portrait of a voice", analytics_enabled=False, delete_cache=(60, _KEPT_SECONDS)
    ) as blocks:
        gradio.Markdown(f"# Portrait of a voice\n\n{LIMITS}\n\n{_PRIVACY}")
        recording = gradio.Audio(sources=["microphone", "upload"], type="filepath", label="Speech")
        button = gradio.Button("Draw", variant="primary")
        # Not gradio.HTML, which needs eval. The text is ours, and escaped.
        faces = gradio.Markdown(elem_id="result", sanitize_html=False, latex_delimiters=[])
        # The recording is cleared, because its file is deleted.
        button.click(
            lambda path: (answer(model, means, path, uploads), None), recording, [faces, recording], api_name=False
        )
    system = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # gradio's own are Google's
    return gradio.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks,
        path=root,
        server_name="127.0.0.1",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=gradio.themes.Base(**system),
        css=_STYLE,
    )
