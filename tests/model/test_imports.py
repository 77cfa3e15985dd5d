from __future__ import annotations

import subprocess
import sys

IMPORT_ALL = """
import importlib, pkgutil, sys
import arspm.model
for module in pkgutil.iter_modules(arspm.model.__path__):
    importlib.import_module(f"arspm.model.{module.name}")
import arspm.training.losses, arspm.evaluation.metrics
found = sorted(name for name in sys.modules if name.split(".")[0] == "ray")
assert "arspm.model.cbam" in sys.modules
assert not found, found
"""


def test_models_and_losses_do_not_import_ray():
    result = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
