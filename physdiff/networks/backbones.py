"""Other people's modules as networks of a field, a time and a condition.

    out = gain · module(field, its conditions, time) / size

The size is that of the module's first answer to white noise, so that modules of any scale learn at the same rate. The
gain of each channel starts at zero: an untrained model is the Gaussian reference, whatever the module. A module that
starts at zero itself has the gain 1, since of a product of zeros no factor would ever learn.

Fields of a condition are put beside the input. Time, numbers and classes are embedded in a vector, which goes where the
module takes one, else beside the input as constant channels (`physdiff.networks.conventions`). Where the module needs a
number of cells that the grid does not have, the field is extended by the grid's boundaries, and cropped again.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from physdiff.condition import Given
from physdiff.grid import Grid
from physdiff.networks.class_path import built, find_module
from physdiff.networks.conditioning import Conditioning
from physdiff.networks.conventions import CONSTANT, Convention, convention_of
from physdiff.networks.embedding import TimeEmbedding
from physdiff.networks.fitting import cropped, fitted


class Backbone(nn.Module):
    """A module, called by its convention; exactly zero until trained.

    Args:
        grid: Where the fields live.
        channels: Channels of the field.
        module: What is called; it is used as it is, not copied.
        convention: How, one of `physdiff.networks.conventions.CONVENTIONS`; found out when not given.
        condition_channels: Channels of further fields on the same grid that `forward` is given.
        scalars: Numbers that `forward` is given for each field.
        classes: Number of classes of which `forward` is given one for each field; 0 for none.
        extra_channels: Channels of the output beyond those of the field.
        input_channels: Channels of the input, the field ahead; those of the field when not given.
        seed: Draws the weights of the embeddings; torch's global random state is neither used nor changed.

    Raises:
        ValueError: no convention fits; the module does not take such fields, or gives back others.
    """

    size: Tensor

    def __init__(
        self,
        grid: Grid,
        channels: int,
        module: nn.Module,
        convention: str | None = None,
        condition_channels: int = 0,
        scalars: int = 0,
        classes: int = 0,
        extra_channels: int = 0,
        input_channels: int | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.convention = convention_of(type(module), convention)
        self.input_channels = channels if input_channels is None else input_channels
        self.output_channels = channels + extra_channels
        self.stride = self.convention.stride(module)
        self.module = module
        length = self.convention.length(module)
        conditions = {"condition_channels": condition_channels, "scalars": scalars, "classes": classes}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            timed = self.convention.beside != "conditions"
            self.embedding = TimeEmbedding(length) if timed else None
            self.conditioning = Conditioning(grid, length, **conditions)
        self.gain = nn.Parameter(torch.zeros(self.output_channels, *[1] * grid.ndim))
        self.register_buffer("size", torch.ones(()))
        # Some modules put what is no tensor into their state (neuraloperator's constructor arguments).
        self.register_state_dict_post_hook(_without_notes)
        self._try(seed)

    @classmethod
    def of_class(
        cls,
        grid: Grid,
        channels: int,
        class_path: str,
        arguments: dict[str, Any] | None = None,
        convention: str | None = None,
        condition_channels: int = 0,
        scalars: int = 0,
        classes: int = 0,
        extra_channels: int = 0,
        input_channels: int | None = None,
        *,
        seed: int = 0,
    ) -> Backbone:
        """A module of a class by its import path, with weights drawn under the seed.

        Args:
            grid: Where the fields live.
            channels: Channels of the field.
            class_path: `module.Class`, or `path/to/file.py:Class`.
            arguments: Arguments of the class, plain values. Numbers of channels and axes that follow from the field
                are filled in where the class has arguments for them (`in_channels`, `out_channels`, and those of the
                known packages).
            convention: As for the class, and so on.
            condition_channels: Likewise.
            scalars: Likewise.
            classes: Likewise.
            extra_channels: Likewise.
            input_channels: Likewise.
            seed: Of all weights.

        Raises:
            ValueError: there is no such class, it is no `torch.nn.Module`, an argument is unfit; and as the class.
        """
        kind = find_module(class_path)
        called = convention_of(kind, convention)
        conditions = {"condition_channels": condition_channels, "scalars": scalars, "classes": classes}
        fields = channels if input_channels is None else input_channels
        beside = _beside(called, any(conditions.values()))
        inputs, outputs = fields + condition_channels + beside, channels + extra_channels
        given = dict(arguments or {})
        parts = f"{fields} of the field, {condition_channels} of conditions, {beside} of time and conditions"
        for name, value in _following(kind, called, grid, inputs, outputs).items():
            if name in ("in_channels", "out_channels") and given.get(name, value) != value:
                of = parts if name == "in_channels" else f"{channels} of the field, {extra_channels} extra"
                raise ValueError(
                    f"{class_path} needs {name} = {value} here ({of}); got {given[name]}. Left out, it is filled in."
                )
            given.setdefault(name, value)
        module = built(kind, class_path, given, seed)
        return cls(
            grid, channels, module, convention, **conditions, extra_channels=extra_channels,
            input_channels=input_channels, seed=seed,
        )  # fmt: skip

    def forward(self, x: Tensor, time: Tensor, condition: Given | None = None) -> Tensor:
        """Evaluate the network.

        Args:
            x: Fields, shape (batch, input_channels, *grid).
            time: Time in [0, 1], shape (batch,).
            condition: What the network was built for; None, or a row that is not `present`: the law of all fields.

        Returns:
            Shape (batch, channels + extra_channels, *grid).

        Raises:
            ValueError: a shape differs from the above, or the module gives back another one.
        """
        batch = x.shape[0] if x.ndim else 0
        expected = (batch, self.input_channels, *self.grid.shape)
        if tuple(x.shape) != expected:
            raise ValueError(f"this network expected x of shape {expected}; got {tuple(x.shape)}.")
        if tuple(time.shape) != (batch,):
            raise ValueError(f"this network expected time of shape {(batch,)}; got {tuple(time.shape)}.")
        return self.gain / self.size * self._evaluate(x, time, condition)

    def _evaluate(self, x: Tensor, time: Tensor, condition: Given | None) -> Tensor:
        fields, told = self.conditioning(x, condition)
        if self.embedding is not None:
            told = self.embedding(time) if told is None else self.embedding(time) + told
        parts = [x] if fields is None else [x, fields]
        if told is not None and self.convention.beside != "none":
            parts.append(told.reshape(*told.shape, *[1] * self.grid.ndim).expand(*told.shape, *self.grid.shape))
        put = fitted(torch.cat(parts, dim=1), self.grid.boundary, (self.stride,) * self.grid.ndim)
        answer = self.convention.evaluate(self.module, put, time, x.new_zeros(()) if told is None else told)
        answer = getattr(answer, "sample", answer)
        answer = answer[0] if isinstance(answer, tuple) else answer
        expected = (x.shape[0], self.output_channels, *put.shape[2:])
        if not isinstance(answer, Tensor) or tuple(answer.shape) != expected:
            got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise ValueError(
                f"{type(self.module).__name__} was called as {self.convention.call} with x of shape "
                f"{tuple(put.shape)}, and should give back the shape {expected}; got {got}."
            )
        return cropped(answer, self.grid.shape)

    def _try(self, seed: int) -> None:
        """One evaluation, at the door: whether the module takes such fields, and how large its answer is."""
        generator = torch.Generator().manual_seed(seed)
        parameter = next(self.module.parameters(), self.gain)
        x = torch.randn(1, self.input_channels, *self.grid.shape, generator=generator).to(parameter)
        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                answer = self._evaluate(x, x.new_full((1,), 0.5), None)
        except ValueError:
            raise
        except Exception as error:
            inputs = self.input_channels + self.conditioning.counts["condition_channels"]
            inputs += _beside(self.convention, any(self.conditioning.counts.values()))
            raise ValueError(
                f"{type(self.module).__name__} was called as {self.convention.call} with {inputs} channels on "
                f"{self.grid.describe()}, and failed: {type(error).__name__}: {error}"
            ) from error
        finally:
            self.module.train(training)
        if not answer.isfinite().all():
            raise ValueError(
                f"{type(self.module).__name__} gives back values that are not finite, before any training."
            )
        if answer.any():
            self.size.copy_(answer.square().mean().sqrt())
        else:
            nn.init.ones_(self.gain)


def _beside(convention: Convention, conditioned: bool) -> int:
    """Constant channels beside the field."""
    counts = {"all": CONSTANT, "conditions": CONSTANT if conditioned else 0, "none": 0}
    return counts[convention.beside]


def _following(cls: type[nn.Module], convention: Convention, grid: Grid, inputs: int, outputs: int) -> dict[str, Any]:
    """Arguments of a class that follow from the field, if it has them."""
    named = inspect.signature(cls.__init__).parameters
    follow = convention.arguments(grid, inputs, outputs)
    return {name: value for name, value in follow.items() if name in named or name in convention.passed_on}


def _without_notes(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [name for name, value in state.items() if name.startswith(prefix) and not isinstance(value, Tensor)]:
        del state[name]
    state.pop("_metadata", None)
