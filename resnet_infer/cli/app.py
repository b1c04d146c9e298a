"""The command line: one file a command, nothing heavy imported before a command runs.

Results go to stdout, everything else to stderr. Exit codes: 0; 1 failure; 2 usage; 3 a check of an export failed.
"""

import difflib
import os
import re
import sys

import typer

from resnet_infer import __version__
from resnet_infer.allocator import keep_freed_memory
from resnet_infer.cli import (  # fmt: skip
    adopt,
    benchmark,
    compare,
    demo,
    env,
    evaluate,
    export,
    info,
    models,
    options,
    predict,
    report,
    train,
    verify,
)
from resnet_infer.cli.groups import PanelCommand
from resnet_infer.cli.process import Ended, ending, heed_signals, open_streams
from resnet_infer.console import drop, emit, tell, visible
from resnet_infer.errors import ReportedElsewhere, ResnetInferError, remedy

app = typer.Typer(
    name="resnet-infer",
    help="ResNets from checkpoint to measured deployment, tested as the paper tested them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("models", cls=PanelCommand)(models.models)
app.command("info", cls=PanelCommand)(info.info)
app.command("predict", cls=PanelCommand)(predict.predict)
app.command("eval", cls=PanelCommand)(evaluate.evaluate)
app.command("compare", cls=PanelCommand)(compare.compare)
app.command("export", cls=PanelCommand)(export.export)
app.command("adopt", cls=PanelCommand)(adopt.adopt)
app.command("train", cls=PanelCommand)(train.train)
app.command("benchmark", cls=PanelCommand)(benchmark.benchmark)
app.command("report", cls=PanelCommand)(report.report)
app.command("verify", cls=PanelCommand)(verify.verify)
app.command("env", cls=PanelCommand)(env.env)
app.command("demo", cls=PanelCommand)(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        emit(f"resnet-infer {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
    verbose: options.Verbose = False,
) -> None:
    """ResNets from checkpoint to measured deployment, tested as the paper tested them."""


def main() -> None:
    """Run the command line and exit; an error is one line on stderr, with its traceback under --verbose."""
    keep_freed_memory()
    open_streams()
    heed_signals()
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except ReportedElsewhere as error:
        sys.exit(error.exit_code)
    except ResnetInferError as error:
        _fail(error, str(error), error.exit_code)
    except (Ended, KeyboardInterrupt) as stop:
        cause = stop.__cause__ if isinstance(stop, Ended) else stop
        if isinstance(cause, BrokenPipeError):  # the reader of stdout, as `head`, has seen enough
            sys.exit(141)
        _fail(None, *ending(cause))
    except OSError as error:
        _fail(error, f"{os.fsdecode(error.filename or '')}: {error.strerror or error}{remedy(error)}".lstrip(": "), 1)
    except MemoryError as error:
        _fail(error, "not enough memory; try a smaller --batch-size, fewer --workers, or smaller images", 1)
    except RecursionError as error:
        _fail(error, "a file is nested too deeply to be read; --verbose shows where", 1)
    except Exception as error:
        _flags_failed(error)
        raise


def _flags_failed(error: Exception) -> None:
    """Exit with one line for what typer says of the flags; return for any other error."""
    if not hasattr(error, "format_message"):
        return
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        sys.exit(2)
    message = error.format_message().replace("Value error, ", "")
    if found := re.search(r"'([^']*)' is not one of (.*?)\.?$", message):
        choices = re.findall(r"'([^']*)'", found[2])
        near = difflib.get_close_matches(found[1], choices, n=1, cutoff=0.5)
        message = message[: found.start(2)] + ", ".join(choices) + (f". Nearest: {near[0]}" if near else "")
    context = getattr(error, "ctx", None)
    name = f"resnet-infer {context.info_name}" if context and context.parent else "resnet-infer"
    remedy = f". See `{name} --help`"
    _fail(None, message.rstrip(".") + remedy, getattr(error, "exit_code", 2))


def _fail(error: BaseException | None, message: str, code: int) -> None:
    if error is not None and options.verbose_errors():
        import traceback

        tell("".join(traceback.format_exception(error)).rstrip("\n"))
    tell(f"resnet-infer: error: {visible(message)}")
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            drop(stream)
    sys.exit(code)
