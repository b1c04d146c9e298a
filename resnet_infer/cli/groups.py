"""Flags as dataclasses: a command takes a few values, and the command line shows their fields as flags, in panels."""

import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_args, get_type_hints

from typer.core import TyperCommand

from resnet_infer.cli.process import Ended


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command with every parameter that is a dataclass replaced by the dataclass's fields.

    A field's annotation is `Annotated[type, typer.Option(...)]`; one that names no panel gets the dataclass's `PANEL`.
    """
    own = inspect.signature(command).parameters
    flat: list[inspect.Parameter] = []
    for name, parameter in own.items():
        group: Any = parameter.annotation
        flat += fields_of(group) if is_dataclass(group) else [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        assert len({each.name for each in flat}) == len(flat), f"{command.__name__}: a flag of {name} is there twice"

    @wraps(command)
    def flattened(**given: Any) -> None:
        values = {}
        for name, parameter in own.items():
            group: Any = parameter.annotation
            grouped = is_dataclass(group)
            values[name] = _filled(group, given) if grouped else given[name]
        command(**values)

    flattened.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    flattened.__annotations__ = {each.name: each.annotation for each in flat}
    return flattened


def _filled(group: Any, given: dict[str, Any]) -> Any:
    return group(**{field.name: given[field.name] for field in fields(group)})


def fields_of(group: Any) -> list[inspect.Parameter]:
    """A dataclass of flags as a command's parameters, in its panel."""
    hints = get_type_hints(group, include_extras=True)
    found = []
    for field in fields(group):
        kind, option = get_args(hints[field.name])
        option = copy(option)
        option.rich_help_panel = option.rich_help_panel or group.PANEL
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        annotation: Any = Annotated[kind, option]
        found.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return found


class PanelCommand(TyperCommand):
    """A command whose help lists its flags panel by panel, and which leaves interrupts to its caller."""

    def invoke(self, ctx: Any) -> Any:
        """As typer does it; an interrupt and a reader of stdout that is gone raise Ended."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            raise Ended from error

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the panels in the order of their first flags, those without one last."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for title in sorted(panels, key=lambda title: ("Arguments", title, "Options").index(title)):
            with formatter.section(title):
                formatter.write_dl(panels[title])
