"""The tree of settings, its rules across fields, and the presets."""

from __future__ import annotations

import re
from operator import attrgetter
from typing import Any, get_args

import pydantic
import pytest
import torch

from arspm import config as configuration
from arspm.config import (
    TRAINED_STAGES,
    Config,
    ConfigError,
    ResourceRequest,
    dump,
    field_names,
    from_dict,
    load,
    override,
    require_workers,
)
from arspm.config.presets import PRESETS, large_batch, preset
from arspm.corpus import schema
from arspm.media import datasets
from arspm.model import cbam, face_decoder, speech_encoder, trunks, vggface
from arspm.training import losses, prior


def problems(changes: dict[str, Any], config: Config | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        override(config or Config(), changes)
    return str(caught.value).splitlines()


def test_field_names_are_the_leaves_of_the_tree():
    def leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
        found = []
        for key, branch in tree.items():
            found += leaves(branch, f"{prefix}{key}.") if isinstance(branch, dict) else [prefix + key]
        return found

    assert field_names() == leaves(Config().model_dump())


# --- resource requests


@pytest.mark.parametrize(
    ("request_", "bundle", "options"),
    [
        (ResourceRequest(), {"CPU": 1}, {"num_cpus": 1}),
        (ResourceRequest(cpus=0, gpus=0.5), {"CPU": 0, "GPU": 0.5}, {"num_cpus": 0, "num_gpus": 0.5}),
        (ResourceRequest(memory_gib=1.5), {"CPU": 1, "memory": 1.5 * 2**30}, {"num_cpus": 1, "memory": 1.5 * 2**30}),
        (ResourceRequest(pool="spot"), {"CPU": 1, "spot": 0.001}, {"num_cpus": 1, "resources": {"spot": 0.001}}),
    ],
)
def test_a_resource_request_as_a_bundle_and_as_options(request_, bundle, options):
    assert request_.bundle == bundle
    assert request_.remote_options == options


@pytest.mark.parametrize("pool", ["memory", "object_store_memory", "CPU", "GPU", "on-demand", "node:1.2.3.4", " spot"])
def test_a_pool_cannot_have_the_name_of_a_ray_resource(pool):
    (line,) = problems({"resources.encoder.pool": pool})
    assert line.startswith("resources.encoder.pool: ")


def test_workers_are_a_number_or_a_range():
    for text, least, most in (("2", 2, 2), ("[1, 4]", 1, 4), ("[1,4]", 1, 4)):
        workers = override(Config(), {"resources.encoder.num_workers": text}).resources.encoder
        assert (workers.least, workers.most) == (least, most)
    config = override(Config(), {"resources.encoder.num_workers": [1, 4]})
    assert load(dump(config)) == config
    [line] = problems({"resources.encoder.num_workers": "many"})
    assert line == (
        "resources.encoder.num_workers: Input should be a number from 1, or a range such as [1, 4] (got 'many')"
    )


# --- rules across fields


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"data.val_fraction": 0.5, "data.test_fraction": 0.5}, "data.val_fraction"),
        ({"training.vggface.num_lanes": 3}, "training.vggface.global_batch_size"),
        ({"training.encoder.num_lanes": 32}, "training.encoder.global_batch_size"),
        ({"training.encoder.epochs": 3, "training.encoder.warmup_epochs": 3.5}, "training.encoder.warmup_epochs"),
        ({"resources.gender.num_workers": "[0, 2]"}, "resources.gender.num_workers"),
        ({"resources.gender.num_workers": "[1"}, "resources.gender.num_workers"),
        ({"resources.trial.num_workers": "[1, 2]"}, "resources.trial.num_workers"),
        ({"speech_encoder.head": "none"}, "speech_encoder.fusion"),
        ({"image_size": 32}, "image_size"),
        ({"image_size": 64, "face_decoder.as_printed": True}, "image_size"),
        ({"face.crop": "aligned"}, "face.crop"),
        ({"data.split": "hq-voxceleb"}, "data.split"),
    ],
)
def test_invalid_combinations_of_fields_are_refused(changes, field):
    assert any(line.startswith(field) for line in problems(changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"data.val_fraction": 0.5, "data.test_fraction": 0.49},
        {"training.encoder.global_batch_size": 24, "ingest.window_rows": 9, "training.encoder.num_lanes": 8},
        {"training.encoder.global_batch_size": 17},
        {"training.encoder.epochs": 3, "training.encoder.warmup_epochs": 3},
        {"speech_encoder.head": "none", "speech_encoder.fusion": "sum"},
        {"data.split": "hq-voxceleb", "data.format": "voxceleb"},
        {"image_size": 32, "decoder_loss.form": "zhao"},
        {"face.crop": "aligned", "face.detector": "yunet"},
        {"face.crop": "aligned", "face.detector": "models/face.onnx"},
    ],
)
def test_valid_combinations_of_fields_are_accepted(changes):
    override(Config(), changes)


@pytest.mark.parametrize(
    ("batch", "lanes"), [(1, 1), (7, 7), (16, 16), (24, 24), (48, 48), (67, 1), (96, 48), (130, 26), (512, 64)]
)
def test_a_batch_has_as_many_lanes_as_divide_it_up_to_64(batch, lanes):
    assert override(Config(), {"training.encoder.global_batch_size": batch}).training.encoder.lanes == lanes


@pytest.mark.parametrize(("storage", "rows"), [("waveform", 192), ("spectrogram", 64)])
def test_a_window_has_fewer_spectrograms_than_waveforms_unless_its_rows_are_set(storage, rows):
    config = override(Config(), {"data.storage": storage})
    assert config.window_rows == rows
    assert override(config, {"ingest.window_rows": 5}).window_rows == 5


@pytest.mark.parametrize(
    ("workers", "problem"),
    [
        (16, ""),
        ("[3, 7]", ""),
        ("[1, 16]", ""),
        (32, "32 does not divide training.gender.num_lanes = 16, the parts of a global batch"),
        (6, "6 does not divide training.gender.num_lanes = 16, the parts of a global batch"),
        ("[1, 17]", "must be [least, most] with least <= most <= training.gender.num_lanes = 16, not [1, 17]"),
        ("[4, 2]", "must be [least, most] with least <= most <= training.gender.num_lanes = 16, not [4, 2]"),
    ],
)
def test_numbers_of_workers_are_checked_for_the_stages_that_will_run(workers, problem):
    config = override(Config(), {"resources.gender.num_workers": workers})
    require_workers(config, [stage for stage in (*TRAINED_STAGES, "trial") if stage != "gender"])
    if not problem:
        return require_workers(config, ["gender"])
    with pytest.raises(ConfigError, match=f"^{re.escape('resources.gender.num_workers: ' + problem)}$"):
        require_workers(config, ["decoder", "gender"])


def test_trials_share_the_lanes_of_the_encoder():
    config = override(Config(), {"resources.trial.num_workers": 2, "training.encoder.global_batch_size": 17})
    with pytest.raises(
        ConfigError, match=r"^resources.trial.num_workers: 2 does not divide training.encoder.num_lanes = 17"
    ):
        require_workers(config, ["trial"])


def test_what_earlier_versions_recorded_of_lanes_is_read():
    tree = preset("smoke").model_dump(mode="json")
    for recipe in tree["training"].values():
        del recipe["num_lanes"]
    tree["ingest"]["num_lanes"] = 4
    assert from_dict(tree) == preset("smoke")


@pytest.mark.parametrize("as_printed", [False, True])
@pytest.mark.parametrize("image_size", [64, 96])
def test_the_accepted_windows_are_those_that_the_loss_accepts(image_size, as_printed):
    torch.set_num_threads(1)
    side = image_size // 2 if as_printed else image_size
    images = torch.rand(1, 3, side, side)
    for window in range(3, 12):
        changes = {
            "image_size": image_size,
            "face_decoder.as_printed": as_printed,
            "decoder_loss.ms_ssim_window": window,
        }
        try:
            losses.image_loss(images, images, window_size=window)
        except ValueError:
            with pytest.raises(ConfigError):
                override(Config(), changes)
        else:
            override(Config(), changes)


def test_the_choices_of_the_configuration_are_those_of_the_networks():
    def choices(section: Any, field: str) -> tuple[str, ...]:
        return get_args(section.model_fields[field].annotation)

    assert choices(configuration.SpeechEncoder, "architecture") == trunks.ARCHITECTURES
    assert choices(configuration.SpeechEncoder, "cbam") == tuple(cbam.ORDERINGS)
    assert choices(configuration.FaceDecoder, "cbam") == tuple(cbam.ORDERINGS)
    assert choices(configuration.SpeechEncoder, "fusion") == speech_encoder.FUSIONS
    assert choices(configuration.SpeechEncoder, "head") == speech_encoder.HEADS
    assert choices(configuration.SpeechEncoder, "fc2_init") == speech_encoder.FC2_INITS
    assert choices(configuration.SpeechEncoder, "prior_weight") == speech_encoder.PRIOR_WEIGHTS
    assert choices(type(Config().ingest), "sex") == ("any", *schema.GENDERS)
    assert choices(configuration.FaceDecoder, "cbam_position") == face_decoder.CBAM_POSITIONS
    assert choices(configuration.VggFace, "feature") == vggface.FEATURES
    assert choices(configuration.VggFace, "channel_order") == ("auto", *vggface.CHANNEL_ORDERS)
    assert choices(configuration.Loss, "identity") == losses.IDENTITY_LOSSES
    assert choices(type(Config().decoder_loss), "form") == losses.IMAGE_LOSSES
    assert set(choices(type(Config().prior), "kind")) == {"none", "gender", "constant", *prior.MEAN_FACES}


def test_every_data_format_has_a_reader():
    assert set(datasets.READERS) == set(configuration.DATA_FORMATS)
    for name, fields in configuration.DATA_FORMATS.items():
        assert override(Config(), {"data.format": name}).data.format == name
        assert set(fields.required + fields.optional) <= set(configuration.Data.model_fields), name


def test_every_trained_stage_has_a_recipe_and_workers():
    assert set(configuration.Training.model_fields) == set(TRAINED_STAGES)
    with_workers = {
        name
        for name, field in configuration.Resources.model_fields.items()
        if field.annotation is configuration.Workers
    }
    assert with_workers == set(TRAINED_STAGES)


def test_one_error_lists_all_invalid_combinations():
    lines = problems(
        {
            "data.val_fraction": 0.5,
            "data.test_fraction": 0.5,
            "speech_encoder.head": "none",
            "decoder_loss.ms_ssim_window": 12,
            "training.decoder.num_lanes": 12,
        }
    )
    assert [line.split(":")[0] for line in lines] == [
        "data.val_fraction and data.test_fraction",
        "speech_encoder.fusion",
        "decoder_loss.ms_ssim_window",
        "training.decoder.global_batch_size",
    ]


# --- the tree as a value


def test_a_configuration_cannot_be_changed():
    config = Config()
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.seed = 1
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.loss.lambda1 = 2.0
    override(config, {"loss.lambda1": 2.0})
    assert config == Config()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_valid_and_survives_saving(name):
    config = preset(name)
    assert config.preset == name
    assert load(dump(config)) == config
    assert load(dump(config).encode()) == config
    assert from_dict(config.model_dump(mode="json")) == config
    assert override(config, {}) == config


def test_an_unknown_preset_is_refused_with_the_names():
    with pytest.raises(ConfigError, match="papr: there is no such preset; there are paper, many-gpus, demo, smoke"):
        preset("papr")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_store_waveforms_where_training_runs_on_gpus(name):
    config = preset(name)
    gpus = {getattr(config.resources, stage).gpus for stage in TRAINED_STAGES}
    assert gpus == ({1} if config.data.storage == "waveform" else {0})


def test_the_preset_for_many_gpus_trains_the_papers_networks_with_larger_batches():
    """Everything but the batches, what follows from them, and the machines is the paper's."""
    many, paper = preset("many-gpus"), preset("paper")
    rescaled = ("global_batch_size", "learning_rate", "eps", "warmup_epochs")
    allowed = {f"training.{stage}.{name}" for stage in TRAINED_STAGES for name in rescaled}
    for name in field_names():
        if name not in {"preset"} | allowed and not name.startswith("resources."):
            assert attrgetter(name)(many) == attrgetter(name)(paper), name
    for stage in TRAINED_STAGES:
        recipe, workers = getattr(many.training, stage), getattr(many.resources, stage)
        assert recipe.global_batch_size // workers.most >= 16  # rows of a GPU; with fewer, a step takes as long


@pytest.mark.parametrize("stage", TRAINED_STAGES)
def test_a_larger_batch_scales_adam_by_its_square_root(stage):
    demo = preset("demo")
    changed = override(demo, large_batch(demo, stage, 256, 2))
    small, large = getattr(demo.training, stage), getattr(changed.training, stage)
    assert (large.global_batch_size, large.warmup_epochs) == (256, 2)
    assert large.learning_rate == pytest.approx(4 * small.learning_rate)
    assert large.eps == pytest.approx(small.eps / 4)
    assert large == small.model_copy(
        update={name: getattr(large, name) for name in ("global_batch_size", "learning_rate", "eps", "warmup_epochs")}
    )


def test_the_paper_preset_has_the_papers_numbers():
    config = preset("paper")
    for stage in ("decoder", "encoder"):  # section 4.1, reading M
        recipe = getattr(config.training, stage)
        assert (recipe.epochs, recipe.global_batch_size, recipe.learning_rate) == (50, 16, 1e-3)
        assert (recipe.decay, recipe.decay_epochs, recipe.beta1, recipe.eps) == (0.9, 2, 0.5, 1e-4)
    assert (config.loss.lambda1, config.loss.lambda2, config.loss.lambda3) == (1.0, 0.04, 1.2)  # eq. 7
    assert (config.feature_dim, config.image_size, config.vggface.num_identities) == (4096, 224, 2622)
    assert {config.speech_encoder.width, config.face_decoder.width, config.vggface.width, config.gender.width} == {1}
    assert config.speech_encoder.cbam == config.face_decoder.cbam == "channel_first"
    assert config.prior.num_faces == 10_000
