"""`arspm download`: the clips of an AVSpeech CSV, from where their videos are published."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from arspm import storage
from cluster.exit_codes import ExitCode
from jobs.commands.options import Address, examples, find_address

app = typer.Typer()
_YOUTUBE = "https://www.youtube.com/watch?v={video_id}"


@app.command(
    epilog=examples(
        "arspm download avspeech_train.csv data/clips --sample 1000",
        "arspm download avspeech_test.csv s3://bucket/clips --cookies cookies.txt --per-minute 10",
    )
)
def download(
    csv: Annotated[str, typer.Argument(metavar="CSV", help="AVSpeech rows (video id, start, end, x, y).")],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="Folder for the clips: a local path or s3://.")],
    sample: Annotated[
        int | None, typer.Option(min=1, help="Only this many rows; smaller samples are parts of larger ones.")
    ] = None,
    cookies: Annotated[
        str | None,
        typer.Option(help="Cookies file in Netscape's format, which the cluster's head can read, or s3://."),
    ] = None,
    url: Annotated[str, typer.Option(help="Address of a video; {video_id} stands for its id.")] = _YOUTUBE,
    max_height: Annotated[int, typer.Option(min=64, help="Largest height, in pixels, that is chosen.")] = 720,
    per_minute: Annotated[
        float, typer.Option(min=0.01, max=6000, help="Videos per minute that are asked for, by all tasks together.")
    ] = 20.0,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Videos that are downloaded at a time.")] = 2,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed for a lasting reason, such as private.")
    ] = False,
    local: Annotated[
        bool, typer.Option("--local", help="Run in this process, without Ray, one video at a time.")
    ] = False,
    ray_address: Address = None,
) -> None:
    """Download the clips of an AVSpeech CSV with yt-dlp. Run the same command again to resume.

    Rows without a clip are in DEST/failures.parquet, with the reason. You need the right to download the videos: see
    docs/data.md.
    """
    address = None if local else find_address(ray_address)
    from arspm.distributed.data.download import Settings
    from arspm.media.downloads import SiteOptions
    from jobs.console import watch
    from jobs.download import download_here, download_on

    settings = Settings(
        csv=storage.absolute(csv),
        destination=storage.absolute(dest),
        sample=sample,
        retry_failed=retry_failed,
        per_minute=per_minute,
        concurrency=concurrency,
        site=SiteOptions(url=url, max_height=max_height),
    )
    cookies = storage.absolute(cookies) if cookies else None
    with watch() as show:
        if address is None:
            summary = download_here(settings, cookies, show)
        else:
            found = download_on(address, settings, cookies, show)
            if found is None:
                raise typer.Exit(ExitCode.FAILED)
            summary = found
    before = f", {summary.num_there_before:,} were there before" if summary.num_there_before else ""
    num_failed = sum(summary.failed.values())
    print(f"{summary.num_rows:,} rows: {summary.num_downloaded:,} downloaded{before}, {num_failed:,} failed")
    for reason, count in summary.failed.items():
        print(f"{reason} {count:,}: {summary.first[reason]}")
    if summary.num_failed_before:
        print(f"{summary.num_failed_before:,} of them failed before and were not tried again; see --retry-failed")
    if num_failed:
        print(f"all of them: {storage.join(settings.destination, 'failures.parquet')}")
    if summary.gave_up:
        print("error: the site throttled everything; run the same command again later", file=sys.stderr)
        raise typer.Exit(ExitCode.FAILED)
