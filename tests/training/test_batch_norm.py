"""BatchNorm over a global batch, compared with PyTorch's BatchNorm on that batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import nn

from arspm.training.batch_norm import GlobalBatchNorm, convert_batch_norm


@pytest.fixture
def one_worker(tmp_path: Path) -> Iterator[None]:
    """A process group of this process only. `test_workers_agree.py` has several."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 0.02)]
)
@pytest.mark.usefixtures("one_worker")
def test_values_gradients_and_statistics_are_those_of_batch_norm(memory_format, momentum, dtype, precision):
    torch.manual_seed(0)
    expected = nn.BatchNorm2d(5, momentum=momentum)
    with torch.no_grad():
        expected.weight.uniform_(0.5, 2)
        expected.bias.normal_()
    if dtype == torch.float64:
        expected.double()
    found = GlobalBatchNorm.of(nn.BatchNorm2d(5, momentum=momentum).to(expected.weight.dtype))
    found.load_state_dict(expected.state_dict())
    for _ in range(2):
        rows = (3 + 2 * torch.randn(4, 5, 6, 7)).to(dtype=dtype, memory_format=memory_format)
        grad = torch.randn(4, 5, 6, 7).to(dtype)
        results = []
        for norm in (expected, found):
            x = rows.clone().requires_grad_()
            norm.zero_grad()
            y = norm(x)
            y.backward(grad)
            results.append([y, x.grad, norm.weight.grad, norm.bias.grad, *norm.state_dict().values()])
        for other, reference in zip(*reversed(results), strict=True):
            assert other.dtype == reference.dtype
            torch.testing.assert_close(other, reference, rtol=precision, atol=precision)
    rows = torch.randn(4, 5, 6, 7).to(dtype)
    torch.testing.assert_close(found.eval()(rows), expected.eval()(rows), rtol=precision, atol=precision)


@pytest.mark.usefixtures("one_worker")
def test_a_converted_network_has_the_same_parameters_and_names():
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), nn.Flatten(), nn.BatchNorm1d(12)
    )
    before, parameters = model.state_dict(), list(model.parameters())
    convert_batch_norm(model, torch.device("cpu"))
    convert_batch_norm(model, torch.device("cpu"))
    assert sum(isinstance(module, GlobalBatchNorm) for module in model.modules()) == 2
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert model.state_dict().keys() == before.keys()
    model(torch.randn(2, 2, 4, 4)).sum().backward()
    assert model.state_dict()["1.0.num_batches_tracked"] == 1
    assert before["1.0.num_batches_tracked"] == 1, "the same buffers"
