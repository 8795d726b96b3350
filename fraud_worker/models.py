"""The models in use: a champion, whose scores count, and challengers, which score in its shadow; kept up to date.

Knows model folders, when their content has changed, and what to do about it: a good model takes the place of the one
before, a bad one is refused and the one before goes on. Must not know gRPC, rows, or what a score means.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from fraud_worker import meter
from fraud_worker.conversion import ConversionModel
from fraud_worker.scorer import Model, ModelRefused

log = logging.getLogger(__name__)

Fingerprint: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""Of each file of a folder: name, inode, time of change in nanoseconds, bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedModel:
    """What stands in a model folder but is not used."""

    folder: Path
    why: str
    time: datetime


class AnyModel(Protocol):
    """What is told of a model of any kind."""

    @property
    def version(self) -> str:
        """Its version."""
        ...


M = TypeVar("M", bound=AnyModel)


@dataclass(frozen=True, kw_only=True)
class LoadedModel(Generic[M]):
    """A model in use, and since when."""

    model: M
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """All models of one moment. Immutable, and read once a request, so that no batch sees two of a kind."""

    champion: LoadedModel[Model] | None
    challengers: tuple[LoadedModel[Model], ...] = ()
    refused: tuple[RefusedModel, ...] = ()
    former_champion: Model | None = None
    """The champion before this one, whose scores may still be asked about."""
    conversion: LoadedModel[ConversionModel] | None = None
    """The model of whether owners pay again, another kind than the others."""

    def all(self) -> list[Model]:
        """Champion, challengers, and the former champion."""
        known = [loaded.model for loaded in (self.champion, *self.challengers) if loaded is not None]
        return known if self.former_champion is None else [*known, self.former_champion]

    def of_version(self, version: str) -> Model | None:
        """The model of that version, if it is still here; "" is the champion."""
        return next((model for model in self.all() if version in ("", model.version)), None)


@dataclass(kw_only=True)
class _Place(Generic[M]):
    """A model folder as it was last looked at."""

    folder: Path
    role: str
    seen: Fingerprint | None = None
    taken: Fingerprint | None = None
    """What was last loaded or refused."""
    is_new: bool = True
    loaded: LoadedModel[M] | None = None
    refused: RefusedModel | None = None


class ModelShelf:
    """The folders that models are put into, and the models that were taken from them."""

    def __init__(
        self,
        champion: Path,
        challengers: Sequence[Path] = (),
        *,
        conversion: Path | None = None,
        load: Callable[[Path], Model] = Model.load,
    ) -> None:
        self._load = load
        self._conversion: _Place[ConversionModel] | None = None
        if conversion is not None:
            self._conversion = _Place(folder=conversion, role="conversion model")
        self._places = [
            _Place[Model](folder=champion, role="champion"),
            *(_Place[Model](folder=folder, role="challenger") for folder in challengers),
        ]
        self._models = Models(champion=None)

    @property
    def models(self) -> Models:
        """The models in use now."""
        return self._models

    def look(self, *, at_once: bool = False) -> bool:
        """Takes what is new in the folders; returns whether anything changed. Reads files: not for an event loop.

        A folder that differs from the last look is left alone until it stops changing, so that a model that is being
        copied is not refused half-way. `at_once` waits for nothing, and reads every folder again.
        """
        changed = [place for place in self._places if _has_settled(place, at_once)]
        for place in changed:
            _take(place, self._load)
        is_other = self._conversion is not None and _has_settled(self._conversion, at_once)
        if self._conversion is not None and is_other:
            _take(self._conversion, ConversionModel.load)
        if changed or is_other:
            self._models = self._of_places()
        return bool(changed) or is_other

    def _of_places(self) -> Models:
        champion, *challengers = self._places
        everywhere: list[_Place[Any]] = [*self._places, *([self._conversion] if self._conversion else ())]
        before = self._models.champion
        is_other = before is not None and champion.loaded is not before
        return Models(
            champion=champion.loaded,
            challengers=tuple(place.loaded for place in challengers if place.loaded is not None),
            refused=tuple(place.refused for place in everywhere if place.refused is not None),
            conversion=self._conversion.loaded if self._conversion else None,
            former_champion=before.model if before is not None and is_other else self._models.former_champion,
        )


def _has_settled(place: _Place[Any], at_once: bool) -> bool:
    found = _fingerprint(place.folder)
    was_seen = found == place.seen and not place.is_new
    place.seen, place.is_new = found, False
    return at_once or (was_seen and found != place.taken)


def _fingerprint(folder: Path) -> Fingerprint | None:
    """Which files the folder holds, and in which state; None where there is no folder."""
    try:
        with os.scandir(folder) as files:
            found = [(file.name, file.stat()) for file in files]
    except OSError:
        return None
    return tuple(sorted((name, stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in found))


def _take(place: _Place[M], load: Callable[[Path], M]) -> None:
    place.taken = place.seen
    try:
        model = load(place.folder)
    except ModelRefused as error:
        place.refused = RefusedModel(folder=place.folder, why=str(error), time=datetime.now(UTC))
        goes_on = f"model {place.loaded.model.version} goes on" if place.loaded else "there is none"
        log.error("%s refused: %s; %s", place.role, error, goes_on)
        meter.count_load(place.role, refused=True)
        return
    place.refused = None
    place.loaded = LoadedModel(model=model, time=datetime.now(UTC))
    log.info("%s is model %s from %s", place.role, model.version, place.folder)
    meter.count_load(place.role, refused=False)
