"""The page itself, made with gradio. Import it after `require_gradio`."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from arspm import SpeechPortrait
from arspm.demo_page.faces import draw_faces, faces_html, problem_html

MISSING = "gradio is not installed: run `pip install 'arspm[page]'`"
MAX_BYTES = 100_000_000  # of a recording

_KEPT_SECONDS = 540  # a recording that was sent and never drawn; gradio looks once a minute
_INTRODUCTION = (
    "# Portrait of a voice\n\nRecord yourself or drop a recording of speech; six seconds are enough. Recordings "
    "stay on this machine and are not kept: each is deleted once it is drawn, and otherwise within ten minutes."
)
_NO_ICON = '<link rel="icon" href="data:,">'
_STYLE = """
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 16px; max-width: 900px; }
.faces figure { margin: 0; }
.faces img { width: 100%; border: 3px solid transparent; border-radius: 8px; box-sizing: border-box; }
.faces figure:first-child img { border-color: var(--color-accent); }
.faces figcaption { font-size: 14px; line-height: 1.45; margin-top: 6px; }
.limits { max-width: 68ch; margin-top: 16px; }
.problem { border-left: 4px solid #d03030; padding-left: 12px; }
"""


def require_gradio() -> Any:
    """Return gradio. Raises ValueError, in one line, if it is not installed."""
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
    file = _uploaded(path, uploads)
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


def _uploaded(path: str, uploads: Path) -> Path:
    """Return the path of a recording that the page has sent. Raises ValueError for any other path, and for URLs."""
    file = Path(path).resolve()
    if uploads.resolve() not in file.parents:
        raise ValueError("only recordings that the page has sent are drawn")
    return file


def build(model: SpeechPortrait, means: Mapping[str, Tensor], uploads: Path, root: str) -> Any:
    """Return the page as an ASGI application below the path `root`."""
    gradio = require_gradio()
    from fastapi import FastAPI

    with gradio.Blocks(
        title="Portrait of a voice", analytics_enabled=False, delete_cache=(60, _KEPT_SECONDS)
    ) as blocks:
        gradio.Markdown(_INTRODUCTION)
        # buttons=[]: otherwise there is one that sends the recording to a public server
        recording = gradio.Audio(
            sources=["microphone", "upload"], type="filepath", label="Speech", buttons=[], elem_id="recording"
        )

        async def keep(path: str | None) -> str | None:
            return path and str(_uploaded(path, uploads))

        # In a mounted page, gradio's own copies any file of the machine, and downloads any URL, that a request names.
        recording.async_move_resource_to_block_cache = keep
        button = gradio.Button("Draw", variant="primary")
        # Not gradio.HTML, which needs eval. The text is ours, and escaped.
        faces = gradio.Markdown(faces_html([]), elem_id="result", sanitize_html=False, latex_delimiters=[])
        # The recording is cleared, because its file is deleted.
        button.click(
            lambda path: (answer(model, means, path, uploads), None), recording, [faces, recording], api_name=False
        )
    system = {
        "font": ["system-ui", "sans-serif"],
        "font_mono": ["ui-monospace", "monospace"],
    }  # gradio's own are Google's
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
        head=_NO_ICON,
    )
