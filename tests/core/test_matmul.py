"""Products by the faster library are the same products, forwards and backwards, and nothing else is touched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from memexp.core import matmul

LAYERS = {
    "linear": lambda: nn.Linear(40, 24),
    "without bias": lambda: nn.Linear(40, 24, bias=False),
    "conv1d": lambda: Conv1D(24, 40),
}


REALLY_EXACT = matmul._exact


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever processor the tests are on: the code path is the same."""
    monkeypatch.setattr(matmul, "_exact", lambda: True)


def passes(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradient of the input and of every parameter that learns."""
    x = x.clone().requires_grad_()
    out = layer(x)
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    grads = [parameter.grad for parameter in layer.parameters() if parameter.requires_grad]
    layer.zero_grad()
    assert x.grad is not None
    return [out.detach(), x.grad, *(grad for grad in grads if grad is not None)]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(40,), (7, 40), (3, 5, 40)])
def test_the_same_numbers(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Sequential(LAYERS[name]()), torch.randn(shape)
    expected = passes(layer, x)
    matmul.use_fast_linear(layer)
    found = passes(layer, x)
    assert len(found) == len(expected) and not any(grad is None for grad in found)
    near = 1e-5 if REALLY_EXACT() else 0.1  # with AMX it does round, for which reason it is not used there
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=near, atol=near)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected[0], rtol=near, atol=near)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_lie_as_their_weights_do(name: str) -> None:
    """Those that lie otherwise are added up ten times slower; and they are what they were when these did."""
    torch.manual_seed(0)
    layer, x = nn.Sequential(LAYERS[name]()), torch.randn(7, 40)
    seen: list[Tensor] = []
    layer[0].weight.register_hook(seen.append)
    matmul.use_fast_linear(layer)
    passes(layer, x)
    (found,) = seen
    assert found.stride() == layer[0].weight.stride()
    grad = torch.linspace(-1, 1, 7 * 24).view(7, 24)
    with matmul._permitted():
        before = grad.T @ x
    assert torch.equal(found, before.T if name == "conv1d" else before)


def test_a_frozen_weight_gets_no_gradient() -> None:
    layer = nn.Sequential(nn.Linear(40, 24))
    layer.requires_grad_(False)
    matmul.use_fast_linear(layer)
    out, of_x = passes(layer, torch.randn(7, 40))
    assert out.shape == (7, 24) and of_x.abs().sum() > 0 and layer[0].weight.grad is None


def test_autocast_decides_by_itself() -> None:
    layer, x = nn.Sequential(nn.Linear(40, 24)), torch.randn(7, 40)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
        matmul.use_fast_linear(layer)
        assert torch.equal(layer(x), expected) and expected.dtype == torch.bfloat16


def test_the_permission_ends_with_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[str] = []
    linear = torch.nn.functional.linear

    def listening(*args: Tensor) -> Tensor:
        inside.append(torch.backends.mkldnn.matmul.fp32_precision)
        return linear(*args)

    monkeypatch.setattr(matmul.F, "linear", listening)
    layer = nn.Sequential(nn.Linear(40, 24))
    matmul.use_fast_linear(layer)
    before = torch.backends.mkldnn.matmul.fp32_precision
    passes(layer, torch.randn(7, 40))
    with pytest.raises(RuntimeError, match="shapes"):
        layer(torch.randn(7, 41))
    assert inside == ["bf16", "bf16"] and torch.backends.mkldnn.matmul.fp32_precision == before != "bf16"


def test_layers_of_other_kinds_are_left_alone() -> None:
    class Quantized(nn.Linear):
        """Somebody's own."""

    layers = nn.Sequential(Quantized(4, 4), nn.Embedding(4, 4))
    matmul.use_fast_linear(layers)
    assert [type(layer) for layer in layers] == [Quantized, nn.Embedding]


def test_a_processor_that_rounds_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one with AMX would: there everything stays with MKL."""
    monkeypatch.undo()
    matmul._exact.cache_clear()

    @contextlib.contextmanager
    def rounding() -> Iterator[None]:
        with torch.autocast("cpu", torch.bfloat16):
            yield

    monkeypatch.setattr(matmul, "_permitted", rounding)
    monkeypatch.setattr(matmul.platform, "machine", lambda: "x86_64")
    layer = nn.Sequential(nn.Linear(4, 4))
    try:
        matmul.use_fast_linear(layer)
        assert type(layer[0]) is nn.Linear
        monkeypatch.setattr(matmul, "_permitted", contextlib.nullcontext)  # and one that does not is, too
        matmul._exact.cache_clear()
        matmul.use_fast_linear(layer)
        assert type(layer[0]) is not nn.Linear
    finally:
        matmul._exact.cache_clear()
