"""Of which members of two models a comparison was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.files import json_bytes
from aifs_ensemble.common.records import json_object
from aifs_ensemble.products.stamps import Stamp


@dataclass(frozen=True)
class PairStamp:
    """The members of each model, by its name, and the content digest of each one's manifest."""

    models: Mapping[str, Stamp]

    @classmethod
    def now(cls, units: Sequence[Config], members: Sequence[Sequence[int]]) -> PairStamp:
        """Return the stamp of what is compared now; InputError for a member without manifest at the destination."""
        return cls({one.model.name: Stamp.now(one, used) for one, used in zip(units, members, strict=True)})

    @classmethod
    def read(cls, data: bytes, name: str) -> PairStamp:
        """Return a stamp from its bytes; VerificationError naming it when it is none."""
        models: Any = json_object(data, name).get("models")
        if not isinstance(models, dict) or not all(isinstance(one, dict) for one in models.values()):
            raise VerificationError(f"{name}: not the members of two models")
        return cls({model: Stamp.read(json_bytes(one), name) for model, one in models.items()})

    def content(self) -> bytes:
        """Return it as JSON."""
        return json_bytes({"models": {model: stamp.to_dict() for model, stamp in self.models.items()}})

    def differs(self, asked: Mapping[str, tuple[Sequence[int], Mapping[int, str]]]) -> str | None:
        """Return why a comparison is made again, None when it is of what is asked for.

        `asked` has members and digests of each model, as `Stamp.differs` takes them.
        """
        if set(asked) != set(self.models):
            return f"made of {' and '.join(self.models)}, asked for are {' and '.join(asked)}"
        for model, (members, digests) in asked.items():
            if why := self.models[model].differs(members, digests):
                return f"{model}: {why}"
        return None
