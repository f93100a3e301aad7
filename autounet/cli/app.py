"""The table of verbs."""

from collections.abc import Callable

from cyclopts import App, Group, Parameter

from autounet import __version__
from autounet.cli import exchange, making, using

_MAKE = Group("From images to a model", sort_key=1)
_USE = Group("From a model to masks and scores", sort_key=2)
_LOOK = Group("Looking and checking", sort_key=3)

app = App(
    name="autounet",
    version=__version__,
    help="A folder of medical images and masks becomes a segmentation model, by itself.\n\n"
    "autounet run DATASET does everything and, typed again, goes on where it was.",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
)
_VERBS: tuple[tuple[Group, tuple[Callable[..., object], ...]], ...] = (
    (_MAKE, (making.run, making.check, making.plan, making.prepare, making.train, making.demo)),
    (_USE, (using.predict, using.evaluate, using.compare, using.report)),
    (_LOOK, (using.info, using.verify, using.doctor)),
)
for _group, _verbs in _VERBS:
    for _place, _verb in enumerate(_verbs):
        app.command(_verb, group=_group, sort_key=_place)
for _place, (_name, _help, _verb) in enumerate(
    (
        ("import", "Take in a model that another program trained.", exchange.import_nnunet),
        ("export", "Give a model out for another program.", exchange.export_nnunet),
    ),
    start=4,
):
    _pair = App(
        name=_name,
        help=_help,
        help_format="plaintext",
        default_parameter=app.default_parameter,
        group=_USE,
        sort_key=_place,
        version_flags=(),
    )
    _pair.command(_verb, name="nnunet")
    app.command(_pair)
