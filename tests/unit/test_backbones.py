"""Any module as a network: how it is called, that it starts at zero and learns, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physdiff.condition import Condition
from physdiff.grid import Grid
from physdiff.networks import Backbone
from physdiff.networks.class_path import find_module
from physdiff.networks.conventions import CONVENTIONS, convention_of

torch.set_num_threads(1)

GRID = Grid((6, 5))
HERE = __name__


class Map(nn.Module):
    """f(x)."""

    def __init__(self, in_channels: int, out_channels: int, size: int = 3, zero: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, 8, size, padding="same")
        self.last = nn.Conv2d(8, out_channels, size, padding="same")
        if zero:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).sin())


class Timed(Map):
    """f(x, t); keeps the time that it was given."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.seen = t
        return super().forward(x) * (1 + t.reshape(-1, 1, 1, 1))


class Counted(Timed):
    """f(x, timesteps), with a tuple for an answer."""

    def forward(self, x: Tensor, timesteps: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        return super().forward(x, timesteps), None


class Odd(nn.Module):
    """Called as no other."""

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        return x * sigma + labels


class Coarse(nn.Module):
    """Gives back half the cells."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(kind: str = "Map", channels: int = 1, arguments: dict[str, Any] | None = None, **settings: Any) -> Backbone:
    return Backbone.of_class(GRID, channels, f"{HERE}.{kind}", arguments, **settings)


@pytest.mark.parametrize("kind", ["Map", "Timed", "Counted"])
@pytest.mark.parametrize("conditions", [{}, {"condition_channels": 2}, {"scalars": 3, "classes": 2}])
def test_a_network_starts_at_zero_and_each_of_its_parameters_learns(kind: str, conditions: dict[str, int]) -> None:
    net = network(kind, 2, extra_channels=1, input_channels=4, **conditions)
    x, t = draw(4, 4, 6, 5), torch.linspace(0.1, 1, 4)
    given = None
    if conditions:
        parts = {"condition_channels": ("fields", draw(4, 2, 6, 5, seed=1)), "scalars": ("scalars", draw(4, 3, seed=2)),
                 "classes": ("classes", torch.tensor([0, 1, 1, 0]))}  # fmt: skip
        told = torch.tensor([True, True, False, True])
        given = Condition(present=told, **dict(parts[name] for name in conditions))
    y = net(x, t, given)
    assert torch.equal(y, torch.zeros(4, 3, 6, 5))
    target = torch.cat((x[:, :2].roll(1, 3), x[:, :1] * t.reshape(-1, 1, 1, 1)), 1)
    optimiser, losses = torch.optim.Adam(net.parameters(), 1e-2), []
    for _ in range(30):
        optimiser.zero_grad()
        loss = (net(x, t, given) - target).square().mean()
        loss.backward()
        still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().amax() > 0]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert still == []
    assert losses[-1] < 0.7 * losses[0], (losses[0], losses[-1])


def test_a_module_that_starts_at_zero_is_not_shut_for_ever() -> None:
    net = network(arguments={"zero": True})
    x, t = draw(4, 1, 6, 5), torch.linspace(0, 1, 4)
    assert torch.equal(net(x, t), torch.zeros_like(x))
    (net(x, t) - x).square().mean().backward()
    module: Any = net.module
    assert module.last.weight.grad.abs().amax() > 0


def test_the_answers_size_is_that_to_white_noise() -> None:
    """So the first step of training moves the output alike for a module a thousand times as large."""
    small, large = network(), network()
    module: Any = large.module
    with torch.no_grad():
        for parameter in module.last.parameters():
            parameter.mul_(1000)
    again = Backbone(GRID, 1, module)
    x, t = draw(4, 1, 6, 5), torch.linspace(0, 1, 4)
    with torch.no_grad():
        small.gain.fill_(0.1), again.gain.fill_(0.1)
    torch.testing.assert_close(again(x, t), small(x, t), rtol=1e-5, atol=1e-6)
    rms = small._evaluate(draw(200, 1, 6, 5, seed=3), torch.full((200,), 0.5), None).square().mean().sqrt()
    assert 0.5 < float((rms / small.size).detach()) < 2  # one draw of 30 cells against 6,000


def test_times_arrive_as_the_convention_says() -> None:
    t = torch.tensor([0.0, 0.25, 1.0])
    for kind, expected in (("Timed", t), ("Counted", 1000 * t)):
        net = network(kind)
        net(draw(3, 1, 6, 5), t)
        module: Any = net.module
        assert torch.equal(module.seen, expected)


def test_a_map_of_fields_alone_is_told_the_time() -> None:
    net = network()
    with torch.no_grad():
        net.gain.fill_(1.0)
    x = draw(1, 1, 6, 5).expand(2, 1, 6, 5)
    y = net(x, torch.tensor([0.1, 0.9]))
    assert (y[0] - y[1]).norm() > 1e-2 * y[0].norm()


def test_rows_that_are_not_told_are_those_without_a_condition() -> None:
    net = network("Timed", condition_channels=2, scalars=1, classes=3)
    with torch.no_grad():
        net.gain.fill_(1.0)
    x, t = draw(3, 1, 6, 5), torch.tensor([0.1, 0.5, 0.9])
    whole = Condition(draw(3, 2, 6, 5, seed=1), draw(3, 1, seed=2), torch.tensor([0, 1, 2]))
    some = net(x, t, whole.told(torch.tensor([True, False, True])))
    torch.testing.assert_close(some[1], net(x, t)[1])
    torch.testing.assert_close(some[::2], net(x, t, whole)[::2])
    assert (net(x, t, whole) - net(x, t)).abs().amax((1, 2, 3)).amin() > 1e-3


def test_seed_alone_fixes_the_weights() -> None:
    before = torch.random.get_rng_state()
    a = network(seed=1, scalars=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        b, c = (network(seed=seed, scalars=1).state_dict() for seed in (1, 2))
    assert all(torch.equal(value, b[name]) for name, value in a.state_dict().items())
    assert not torch.equal(b["module.first.weight"], c["module.first.weight"])


def test_a_copy_has_the_same_state() -> None:
    net = network(scalars=1)
    twin = copy.deepcopy(net)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in twin.state_dict().items())


def test_conventions_are_told_by_the_signature() -> None:
    found = {kind: convention_of(find_module(f"{HERE}.{kind}")) for kind in ("Map", "Timed", "Counted")}
    assert {kind: next(name for name, c in CONVENTIONS.items() if c is told) for kind, told in found.items()} == {
        "Map": "plain", "Timed": "time", "Counted": "timesteps"
    }  # fmt: skip
    assert convention_of(find_module(f"{HERE}.Timed"), "timesteps") is CONVENTIONS["timesteps"]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("Odd", {}, "Odd takes x, sigma, labels; name the convention by which it is called: 'diffusers' for"),
        ("Map", {"convention": "tim"}, "unknown convention 'tim'. Did you mean 'time'"),
        ("Map", {"arguments": {"sizes": 3}}, "has no argument 'sizes'. Did you mean 'size'"),
        ("Map", {"arguments": {"in_channels": 3}}, r"needs in_channels = 9 here \(1 of the field, 0 of cond.* got 3"),
        ("Map", {"arguments": {"out_channels": 3}}, r"needs out_channels = 1 here .* got 3"),
        ("Map", {"arguments": {"size": -3}}, "could not be built with .*: "),
        ("Map", {"convention": "time"}, r"was called as module\(x, t\), t in \[0, 1\] with 1 channels .*TypeError"),
        ("Coarse", {}, r"should give back the shape \(1, 1, 6, 5\); got \(1, 9, 6, 3\)"),
        ("Nothing", {}, "has no class 'Nothing'"),
        ("draw", {}, "has no class 'draw'"),
        ("Any", {}, "is not a subclass of torch.nn.Module|has no class 'Any'"),
    ],
)
def test_what_cannot_be_is_refused(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(kind, **settings)


def test_arguments_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match=r"torch\.nn\.Linear needs in_features and out_features in arguments"):
        Backbone.of_class(GRID, 1, "torch.nn.Linear")


@pytest.mark.parametrize(
    "name", ["os.system", "subprocess.Popen", "builtins.eval", "torch.load", "collections.Counter"]
)
def test_only_modules_of_torch_are_networks(name: str) -> None:
    with pytest.raises(ValueError, match=r"has no class|is not a subclass of torch\.nn\.Module"):
        find_module(name)


def test_unfit_shapes_are_refused() -> None:
    net = network(channels=2)
    with pytest.raises(ValueError, match=r"x of shape \(3, 2, 6, 5\); got \(3, 1, 6, 5\)"):
        net(draw(3, 1, 6, 5), torch.zeros(3))
    with pytest.raises(ValueError, match=r"time of shape \(3,\); got \(\)"):
        net(draw(3, 2, 6, 5), torch.tensor(0.5))
