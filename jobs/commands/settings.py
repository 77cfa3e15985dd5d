"""The configuration of `arspm submit`: a preset or a file, changed by options, completed by files beside the data."""

from __future__ import annotations

from collections.abc import Mapping

from arspm import storage
from arspm.config import DATA_FORMATS, Config, ConfigError, override, presets, uri_fields
from arspm.runs.adopted import Adopted
from jobs.commands.config_file import read_config


def resolve_config(
    preset: str | None,
    config: str | None,
    data: Mapping[str, str | None],
    changes: Mapping[str, str],
    adopted: Adopted | None = None,
) -> Config:
    """Return the complete configuration, with every path absolute.

    `preset`: its name (default: see `read_config`). `config`: URI of a file with fields that differ from the preset.
    `changes`: fields that take precedence over both. `data`: fields of the `data` section, None where not given.
    labels.csv and speakers.parquet beside the data are used where the configuration names none.
    `adopted`: the corpus that the run uses, whose settings it has. Raises ConfigError.
    """
    base = read_config(config, preset) if config else presets.preset(preset or "paper")
    if adopted is not None:
        if given_data := [name for name, value in data.items() if value is not None]:
            raise ConfigError(f"--{given_data[0]}: the run uses the corpus of {adopted.source}; leave it out")
        base = base.model_copy(update={"data": adopted.data, "face": adopted.face})
        resolved = _with_absolute_paths(override(base, changes))
        speakers = adopted.oracle_speakers
        if speakers and not resolved.oracle.speakers and storage.exists(speakers):
            resolved = override(resolved, {"oracle.speakers": speakers})
        return resolved
    given = {f"data.{name}": value for name, value in data.items() if value is not None}
    resolved = _with_absolute_paths(override(base, {**changes, **given}))
    _require_data(resolved)
    has_csv = "csv" in DATA_FORMATS[resolved.data.format].required
    parent = resolved.data.csv.rpartition("/")[0] if has_csv else resolved.data.clips
    labels = storage.join(parent, "labels.csv")
    if not resolved.data.labels and storage.exists(labels):
        resolved = override(resolved, {"data.labels": labels})
    speakers = storage.join(
        parent, "speakers.parquet"
    )  # written by `arspm synth`, whose clips are in AVSpeech's format
    if resolved.data.format == "avspeech" and not resolved.oracle.speakers and storage.exists(speakers):
        resolved = override(resolved, {"oracle.speakers": speakers})
    return resolved


def _require_data(config: Config) -> None:
    """Raise ConfigError where inputs of the data's format are missing, or an input of another format is given."""
    data, fields = config.data, DATA_FORMATS[config.data.format]
    options = [f"--{name} {'CSV' if name == 'csv' else 'FOLDER'}" for name in fields.required]
    options += ["[--faces FOLDER]"] if "faces" in fields.optional else []
    if data.format != "avspeech":
        options.insert(0, f"--format {data.format}")
    if not all(getattr(data, name) for name in fields.required):
        raise ConfigError(f"no clips given; pass {' '.join(options)}")
    for name in ("csv", "test_csv", "faces"):
        if name not in (*fields.required, *fields.optional) and getattr(data, name):
            raise ConfigError(f"data.{name}: not used by format {data.format}, which takes {' '.join(options)}")


def _with_absolute_paths(config: Config) -> Config:
    """Make every path absolute: jobs run in other folders than this command."""
    return override(config, {name: storage.absolute(uri) for name, uri in uri_fields(config).items()})
