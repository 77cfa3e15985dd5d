"""All settings: their tree (`tree`), reading it from text (`parse`), and named, complete configurations (`presets`)."""

from arspm.config.fields import Positive, Section
from arspm.config.parse import (
    ConfigError,
    config_error,
    dump,
    from_dict,
    load,
    override,
    quote_name,
    quote_value,
)
from arspm.config.recognizer import RecognizerInput, parse_recognizer_input, read_recognizer_input
from arspm.config.resources import ResourceRequest, Resources, Tasks, Workers
from arspm.config.tree import (
    DATA_FORMATS,
    TRAINED_STAGES,
    Cbam,
    Config,
    Data,
    FaceDecoder,
    Loss,
    Recipe,
    SpeechEncoder,
    Training,
    VggFace,
    field_names,
    uri_fields,
)

__all__ = [
    "DATA_FORMATS",
    "TRAINED_STAGES",
    "Cbam",
    "Config",
    "ConfigError",
    "Data",
    "FaceDecoder",
    "Loss",
    "Positive",
    "Recipe",
    "RecognizerInput",
    "ResourceRequest",
    "Resources",
    "Section",
    "SpeechEncoder",
    "Tasks",
    "Training",
    "VggFace",
    "Workers",
    "config_error",
    "dump",
    "field_names",
    "from_dict",
    "load",
    "override",
    "parse_recognizer_input",
    "quote_name",
    "quote_value",
    "read_recognizer_input",
    "uri_fields",
]
