"""Pickles of a base and a task, which worker processes need."""

import cloudpickle
from torch import nn


class Pickler(cloudpickle.Pickler):
    """Pickles a quantised weight with what bitsandbytes keeps beside its packed numbers.

    Without this, torch would turn it into a plain parameter.
    """

    def reducer_override(self, value: object) -> tuple:
        """How to make a quantised weight again; all else is left to cloudpickle."""
        if isinstance(value, nn.Parameter) and type(value) is not nn.Parameter:
            made_from = (value.data, value.requires_grad)
            return type(value), made_from, vars(value), None, None, _keep_beside
        return super().reducer_override(value)


def _keep_beside(parameter: nn.Parameter, constants: dict[str, object]) -> None:
    vars(parameter).update(constants)
