"""Commands and options that do not exist: the error names the nearest ones, in the same words whatever click says."""

from __future__ import annotations

import click

from lm_bounds.errors import nearest


class Commands(click.Group):
    """A group whose error about an unknown command has the nearest name."""

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names.

        Raises:
            click.UsageError: there is none.
        """
        name = arguments[0]
        names = self.list_commands(context)
        if name not in names and not name.startswith("-") and not context.resilient_parsing:
            context.fail(f"No such command {name!r}{nearest(name, names)}")
        return super().resolve_command(context, arguments)


def no_such_option(error: click.NoSuchOption) -> str:
    """The message about an option that a command does not have."""
    if error.ctx is None:
        return error.format_message()
    options = [
        spelling
        for parameter in error.ctx.command.get_params(error.ctx)
        if isinstance(parameter, click.Option)
        for spelling in (*parameter.opts, *parameter.secondary_opts)
        if spelling.startswith("--")
    ]
    return f"No such option {error.option_name!r}{nearest(error.option_name, options)}"
