"""The catalog: every network by name. Names and facts are read without importing a model (nor torch).

`@register` takes literal values only, so that the cards can be read from the source by ``ast``; what the cards of a
family share may stand once, in a literal table at the top of the file, and come in as ``**TABLE``. The builder itself
is imported when it is called for. Users' own cards come by the entry point group ``layerwise.cards`` or by ``--import
FILE``.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from layerwise.errors import LayerwiseError, UsageError, unknown
from layerwise.runtime.input_files import read_regular_file, refuse_special_file

Table = dict[str, Any]
BuilderT = TypeVar("BuilderT", bound=Callable[..., Any])
FOLDER = Path(__file__).with_name("models")
GROUP = "layerwise.cards"


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A network's page in the catalog.

    ``rule`` is None where nothing is learned. ``recipe`` holds the default tables (``model``, ``data``, ``task``,
    ``train``, ``stages``); its ``variants`` change them by kind of data (``row``, ``image``), by task, and for under
    5,000 training examples (``small``, ``row-small``, and ``points`` for rows of one or two numbers). ``small`` are
    builder arguments of an instance of at most 100,000 parameters, for tests. ``parameters`` is the count of the
    full-size instance that ``size`` builds. ``why`` says why a card without a rule learns nothing.
    """

    name: str
    family: str
    tasks: tuple[str, ...]
    rule: str | None
    year: int
    paper: str
    summary: str
    summary_zh: str
    parameters: int
    size: dict[str, Any] = {}
    small: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    aliases: tuple[str, ...] = ()
    why: str = ""
    why_zh: str = ""
    module: str = ""
    builder: str = ""


@cache
def _registered() -> dict[str, Callable[..., Any]]:
    """The builders of the modules imported so far, by card name."""
    return {}


@cache
def _user_cards() -> dict[str, Card]:
    """The cards that came by ``--import`` or entry points."""
    return {}


def register(
    name: str,
    *,
    family: str,
    tasks: Sequence[str],
    rule: str | None,
    year: int,
    paper: str,
    summary: str,
    summary_zh: str,
    parameters: int,
    size: Mapping[str, Any] | None = None,
    small: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    aliases: Sequence[str] = (),
    why: str = "",
    why_zh: str = "",
) -> Callable[[BuilderT], BuilderT]:
    """Put a builder into the catalog. All values are literals: see `Card` for their meaning. A name taken twice
    raises."""
    del family, tasks, rule, year, paper, summary, summary_zh, parameters, size, small, recipe, aliases, why, why_zh

    def entered(builder: BuilderT) -> BuilderT:
        known = _registered()
        if name in known and known[name].__module__ != builder.__module__:
            raise UsageError(
                f"two networks are called '{name}'", received=f"{builder.__module__} and {known[name].__module__}"
            )
        known[name] = builder
        return builder

    return entered


def read_cards(path: Path, module: str) -> list[Card]:
    """Read the cards of one source file without running it. Raises `UsageError` for a value that is not a literal."""
    cards: list[Card] = []
    tables: dict[str, Table] = {}
    try:
        tree = ast.parse(read_regular_file(path), filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{path} is not Python: {error}", expected="a Python file with @register cards") from error
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            tables |= _literal_table(node)
        if not isinstance(node, ast.FunctionDef):
            continue
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and getattr(call.func, "id", getattr(call.func, "attr", "")) == "register":
                cards.append(_card(call, path, tables, module=module, builder=node.name))
    return cards


def _literal_table(node: ast.Assign | ast.AnnAssign) -> dict[str, Table]:
    """Return a literal table at the top of a file by its name; nothing for what is none."""
    (target, *others) = node.targets if isinstance(node, ast.Assign) else [node.target]
    if others or not isinstance(target, ast.Name) or not isinstance(node.value, ast.Dict):
        return {}
    try:
        return {target.id: ast.literal_eval(node.value)}
    except ValueError:
        return {}


def _card(call: ast.Call, path: Path, tables: Mapping[str, Table], *, module: str, builder: str) -> Card:
    """Turn one ``@register(...)`` into its card; ``tables`` are those of the file that it may take up with ``**``."""
    try:
        values: Table = {}
        for keyword in call.keywords:
            if keyword.arg is not None:
                values[keyword.arg] = ast.literal_eval(keyword.value)
            elif isinstance(keyword.value, ast.Name) and keyword.value.id in tables:
                values |= tables[keyword.value.id]
            else:
                raise ValueError(f"**{ast.unparse(keyword.value)} is no literal table at the top of this file")
        return msgspec.convert(
            {"name": ast.literal_eval(call.args[0]), **values, "module": module, "builder": builder}, Card
        )
    except (ValueError, IndexError, msgspec.ValidationError) as error:
        raise UsageError(
            f"{path}, line {call.lineno}: @register cannot be read: {error}",
            expected="literal values (texts, numbers, lists, tables), as in CONTRIBUTING.md",
        ) from error


@cache
def cards() -> dict[str, Card]:
    """Return every card by name, in the order of family and year."""
    found: dict[str, Card] = {}
    for path in sorted(FOLDER.glob("[!_]*.py")):
        for card in read_cards(path, f"layerwise.models.{path.stem}"):
            _enter(found, card)
    for module in _offered():
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin:
            for card in read_cards(Path(spec.origin), module):
                _enter(found, card)
    for card in _user_cards().values():
        _enter(found, card)
    return dict(sorted(found.items(), key=lambda item: (item[1].year, item[1].name)))


def _offered() -> list[str]:
    """Return the modules in which installed packages offer cards.

    Their files are looked through first: `importlib.metadata` takes 40 ms to load, which a typo in a name would pay
        for.
    """
    files = (path for place in sys.path for path in Path(place or ".").glob("*-info/entry_points.txt"))
    if not any(GROUP.encode() in path.read_bytes() for path in files):
        return []
    from importlib.metadata import entry_points

    return [point.value for point in entry_points(group=GROUP)]


def _enter(found: dict[str, Card], card: Card) -> None:
    """Add a card, refusing a name that is taken."""
    if card.name in found:
        raise UsageError(
            f"two networks are called '{card.name}'", received=f"{found[card.name].module} and {card.module}"
        )
    found[card.name] = card


def list_models(*, family: str = "") -> list[Card]:
    """Return the cards, of one family if it is named. Raises `UsageError` for an unknown family."""
    families = sorted({card.family for card in cards().values()})
    if family and family not in families:
        raise unknown("family", family, families)
    return [card for card in cards().values() if family in ("", card.family)]


def find(name: str, *, where: str = "") -> Card:
    """Return the card of this name or alias, or raise `UsageError` with the nearest name, and ``where`` the name
    stands."""
    known = cards()
    by_alias = {alias: card for card in known.values() for alias in card.aliases}
    card = known.get(name) or by_alias.get(name)
    if card is None:
        raise unknown("model", name, known, where=where, do="a network of your own needs --import FILE")
    return card


def refuse_without_rule(card: Card) -> None:
    """Raise `UsageError` for a network that learns nothing, saying why."""
    if card.rule is None:
        raise UsageError(
            f"{card.name} ({card.year}) cannot be trained: {card.why}",
            do=f"layerwise inspect {card.name} shows what it does",
        )


def builder(card: Card) -> Callable[..., Any]:
    """Import the card's module and return its builder."""
    if card.name not in _registered():
        importlib.import_module(card.module)
    return _registered()[card.name]


class _UsersFile(SourceFileLoader):
    """Runs a user's Python file, and leaves no compiled copy beside it."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write nothing."""


def import_file(path: Path) -> list[Card]:
    """Run a user's Python file and take its cards into the catalog (``--import FILE``)."""
    refuse_special_file(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}", expected="a Python file with @register cards", do="check --import")
    module = f"layerwise_user_{path.stem}"
    new = read_cards(path, module)
    if not new:
        raise UsageError(f"{path} registers no network", expected="a function under @register(...)")
    spec = importlib.util.spec_from_file_location(module, path, loader=_UsersFile(module, str(path)))
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    try:
        spec.loader.exec_module(loaded)
    except LayerwiseError:
        raise
    except Exception as error:  # whatever a user's file raises is told with its line
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        raise UsageError(
            f"{path}, line {lines[-1] if lines else '?'}: {type(error).__name__}: {error}", do="correct the file"
        ) from error
    _user_cards().update({card.name: card for card in new})
    cards.cache_clear()
    return new
