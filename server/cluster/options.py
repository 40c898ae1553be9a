"""The settings of `[cluster]`: how many replicas, on which Ray, and when there are more of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ClusterSettings(BaseModel):
    """What is said of replicas; a model's own table says it of the model alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str | None = Field(
        default=None, min_length=1, description="The Ray to run on (auto: the one here); not given: one of its own."
    )
    replicas: int | None = Field(default=None, ge=1, description="Replicas of each model; not given: one.")
    min_replicas: int | None = Field(
        default=None, ge=1, description="Fewest replicas, where their number follows the load."
    )
    max_replicas: int | None = Field(
        default=None, ge=1, description="Most replicas; given: their number follows the load."
    )
    target_requests: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Requests a replica that their number aims at; its rows.",
    )
    scale_up_after: Seconds | None = Field(default=None, description="Seconds of more load before there are more (30).")
    scale_down_after: Seconds | None = Field(
        default=None, description="Seconds of less load before there are fewer (600)."
    )
    routing: Literal["prefix", "load"] = Field(
        default="prefix", description="A conversation goes to its replica (prefix), or each request to the less loaded."
    )
    spill_requests: int | None = Field(
        default=None,
        ge=1,
        description="Requests on a conversation's replica from which its second choice is taken; its rows.",
    )

    @model_validator(mode="after")
    def _agrees(self) -> ClusterSettings:
        if self.max_replicas is None:
            following = ("min_replicas", "target_requests", "scale_up_after", "scale_down_after")
            if given := [name for name in following if getattr(self, name) is not None]:
                raise ValueError(f"{given[0]} is about a number that follows the load: give max_replicas too")
        elif self.replicas is not None:
            raise ValueError("replicas says a fixed number, max_replicas one that follows the load: give one of them")
        elif self.fewest > self.max_replicas:
            raise ValueError(f"min_replicas={self.min_replicas}: must be at most max_replicas={self.max_replicas}")
        return self

    @property
    def fewest(self) -> int:
        """Replicas that are always there."""
        return self.min_replicas or self.replicas or 1

    @property
    def most(self) -> int:
        """Replicas that there may be."""
        return self.max_replicas or self.fewest
