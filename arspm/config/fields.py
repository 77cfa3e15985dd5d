"""Types of the settings' fields, and the base class of every section."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetPydanticSchema
from pydantic_core import PydanticCustomError, core_schema

from arspm.storage import uris

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


def _validated_uri(value: str) -> str:
    if value and (problem := uris.user_uri_problem(value)):
        raise PydanticCustomError("uri", "{problem}", {"problem": problem})
    return value


IS_URI = AfterValidator(_validated_uri)
Uri = Annotated[str, IS_URI]  # a local path or s3://; one with credentials is rejected without showing them
BUILT_IN_NAMES = ("hog", "yunet", "classifier")  # accepted instead of a path


def one_of(names: Iterable[str]) -> Any:
    """Return the annotation of a field whose value is one of these names, as `Literal` does for written-out names."""
    return GetPydanticSchema(lambda _source, _handler: core_schema.literal_schema([*names]))


class Section(BaseModel):
    """A frozen group of settings that rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
