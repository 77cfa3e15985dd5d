"""`arspm doctor` and `arspm presets`: what a run needs, and what the named configurations are."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from arspm import storage
from arspm.config import presets as configurations
from cluster.exit_codes import ExitCode
from jobs.commands.options import Address, Json, completing, examples
from jobs.verbosity import is_quiet

app = typer.Typer()


@app.command(
    epilog=examples(
        "arspm doctor --preset demo",
        "arspm doctor s3://bucket/runs/one --preset paper --ray-address http://HOST:8265 --json",
    )
)
def doctor(
    uri: Annotated[
        str | None, typer.Argument(metavar="[URI]", help="Where a run is to be: also checks its store.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Preset whose needs are checked.", autocompletion=completing(configurations.PRESETS))
    ] = "paper",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one field, e.g. face.detector=yunet. Repeatable.")
    ] = None,
    as_json: Json = False,
    ray_address: Address = None,
) -> None:
    """Check this machine, the cluster, the store and the preset's needs; say what to do. Changes nothing.

    The exit code is 1 if a check fails. A warning is no failure.
    """
    from arspm.config import override
    from cluster.head import find_head
    from jobs import doctor as doctors
    from jobs.commands.options import parse_changes

    config = override(configurations.preset(preset), parse_changes(set_))
    checks = []
    for check in doctors.examine(config, storage.run_uri(uri) if uri else None, find_head(ray_address)):
        checks.append(check)
        if not as_json and not (is_quiet() and check.state == "OK"):
            print(f"{check.state:<4} {check.name:<24} {check.text}", flush=True)
            if check.advice:
                print(f"{'':<29} -> {check.advice}", flush=True)
    if as_json:
        print(json.dumps(doctors.as_json(checks), indent=2))
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(ExitCode.FAILED)


@app.command(epilog=examples("arspm presets", "arspm presets --json"))
def presets(as_json: Json = False) -> None:
    """List the presets with the size of their networks, the GPUs that they request, and how long they take."""
    from jobs.preset_list import as_lines, describe

    found = [describe(config) for config in configurations.PRESETS.values()]
    print(json.dumps(found, indent=2) if as_json else "\n".join(as_lines(found)))
