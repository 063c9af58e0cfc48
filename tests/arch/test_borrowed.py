"""The private members of other people's libraries that the product uses: one table, and a search for further ones.

A library may change such a member in any release. So its version is pinned, and a test for each member says what to do
when the member is gone. Python cannot be pinned: ``agent/web/server.py`` refuses TLS if asyncio lacks a member.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
OURS = ("agent", "drivers", "receiver", "firmware_profiles", "ext")
PYTHONS = {(3, 11), (3, 12), (3, 13)}  # whose asyncio was tried with all that is in the table

PAHO, TLS, LOOP, UVICORN, TEXTUAL = (
    "paho.mqtt.client:Client", "asyncio.sslproto:SSLProtocol", "asyncio:SelectorEventLoop",
    "uvicorn.protocols.http.h11_impl:H11Protocol", "textual.app:App",
)  # fmt: skip
CLIENT, UPLINK, PAGE = "agent/verify/mqtt.py", "agent/uplink/mqtt.py", "agent/web/server.py"


class Loan(NamedTuple):
    """A member that is not documented by its library."""

    owner: str  # module:class
    member: str
    files: tuple[str, ...]
    why: str
    cure: str  # what to do in the file if the member is gone
    takes: tuple[str, ...] | None = None  # names of its parameters, if it is a method


LOANS = (
    Loan(PAHO, "_in_packet", (CLIENT, UPLINK), "the packet being read: its kind, its stated length, its bytes",
         "find where paho keeps the first byte and the stated length; no packet above the limit may be stored"),
    Loan(PAHO, "_out_packet", (CLIENT,), "the packets that wait to be sent, with `pos` and `to_process`",
         "find paho's queue; `unsent_bytes` must count its bytes, and MAX_ANSWERS must bound it"),
    Loan(PAHO, "_sock_recv", (CLIENT,), "the one place where paho receives; the limits and the buffer are here",
         "override the method that now receives, else a broker can fill the memory", ("bufsize",)),
    Loan(PAHO, "_mid_generate", (UPLINK,), "the next packet id", "count packet ids from 1 to 65535 in `add`", ()),
    Loan(PAHO, "_out_messages", (UPLINK,), "the packet ids in flight, which paho's own packets must not use",
         "keep the ids in a set of our own, and make sure that paho's SUBSCRIBE uses none of them"),
    Loan(PAHO, "_packet_queue", (UPLINK,), "sends bytes, and keeps what the socket does not accept now",
         "find the call that queues an encoded packet; a packet must never be cut by another",
         ("command", "packet", "mid", "qos", "info")),
    Loan(PAHO, "_handle_pubackcomp", (UPLINK,), "takes a PUBACK with a reason code, for which paho would hang up",
         "override the method that now handles PUBACK: a refused pack is set aside, not sent for ever", ("cmd",)),
    Loan(PAHO, "_last_bytes_received", (UPLINK,), "the time of the last received byte, for the keepalive",
         "tell paho that bytes have come, else it sends PINGREQs beside a running exchange"),
    Loan(TLS, "max_size", (PAGE,), "the size of the buffer of a TLS connection",
         "bound the memory of a connection before its handshake in another way"),
    Loan(TLS, "_ssl_buffer", (PAGE,), "the buffer, freed when the connection ends",
         "free what holds the received bytes"),
    Loan(TLS, "_ssl_buffer_view", (PAGE,), "the view that keeps the buffer", "free what holds the received bytes"),
    Loan(TLS, "_sslobj", (PAGE,), "the TLS object, freed when the connection ends", "free the TLS object"),
    Loan(TLS, "_on_handshake_complete", (PAGE,), "drops the traceback of a failed handshake, which holds the buffer",
         "end the cycle of exception and traceback where a failed handshake ends now", ("handshake_exc",)),
    Loan(TLS, "_wakeup_waiter", (PAGE,), "wakes the server without the exception of a failed handshake",
         "a failed handshake must not log a traceback", ("exc",)),
    Loan(TLS, "_app_transport", (PAGE,), "the transport for the HTTP protocol",
         "return what asyncio's own _make_ssl_transport returns"),
    Loan(LOOP, "_make_ssl_transport", (PAGE,), "makes the TLS layer of an accepted connection: ours",
         "override what now makes it; `BoundedTls` must be used for each accepted connection"),
    Loan(LOOP, "_make_socket_transport", (PAGE,), "makes the transport below the TLS layer",
         "make it as asyncio's own _make_ssl_transport makes it"),
    Loan(UVICORN, "cycle", (PAGE,), "the request being served, with `response_complete` and `more_body`",
         "find out another way whether a request is being served: such a connection is not closed to make room"),
    Loan(UVICORN, "timeout_keep_alive_task", (PAGE,), "set between two requests",
         "find out another way whether the connection is between two requests, which has a time limit of its own"),
    Loan(TEXTUAL, "_handle_exception", ("agent/cli/watch/app.py",), "closes the screen after an internal error",
         "override what now handles such an error: a user must see one line, not Textual's traceback", ("error",)),
)  # fmt: skip
LIBRARIES = {"paho": "paho-mqtt", "textual": "textual", "uvicorn": "uvicorn"}
DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_replace"}  # of named tuples and os


def resolve(owner: str) -> type:
    module, _, name = owner.partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, type)
    return found


@cache
def stored_names(module: str) -> dict[str, set[str]]:
    """Class -> names that its methods store in ``self``. Empty for a module that is not written in Python."""
    try:
        tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    except (OSError, TypeError):
        return {}
    return {
        made.name: {
            node.attr
            for node in ast.walk(made)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value)
        }
        for made in ast.walk(tree)
        if isinstance(made, ast.ClassDef)
    }


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS


def members(owner: type) -> set[str]:
    """Names of a class and of its objects, as far as its libraries define them."""
    foreign = [base for base in owner.__mro__ if not is_ours(base.__module__) and base is not object]
    return {
        name for base in foreign for name in {*vars(base), *stored_names(base.__module__).get(base.__name__, set())}
    }


@pytest.mark.parametrize("loan", LOANS, ids=lambda loan: f"{loan.owner.partition(':')[2]}.{loan.member}")
def test_what_a_library_lends_us_is_still_there(loan: Loan) -> None:
    owner = resolve(loan.owner)
    name = LIBRARIES.get(loan.owner.partition(".")[0])
    release = f"{name} {version(name)}" if name else f"Python {sys.version.split()[0]}"
    text = (
        f"{release}: {loan.owner} has another {loan.member}. {' and '.join(loan.files)} used it: {loan.why}. "
        f"What to do: {loan.cure}. Or stay with the release before it, in both pyproject.toml"
    )
    assert loan.member in members(owner), text
    if loan.takes is not None:
        assert tuple(inspect.signature(getattr(owner, loan.member)).parameters)[1:] == loan.takes, text


def required(file: str) -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / file).read_text())["project"]
    lines = [*project["dependencies"], *(line for more in project["optional-dependencies"].values() for line in more)]
    return {one.name: one for one in map(Requirement, lines)}


def test_libraries_that_lend_us_members_are_pinned_to_the_releases_that_were_tried() -> None:
    agent, verifier = required("pyproject.toml"), required("agent/verify/pyproject.toml")
    assert str(verifier["paho-mqtt"].specifier) == str(agent["paho-mqtt"].specifier)
    for name in sorted(set(LIBRARIES.values())):
        pin = agent[name].specifier
        assert version(name) in pin, f"{name} {version(name)} is installed, but pyproject.toml has {pin}"
        assert {one.operator for one in pin} == {">=", "<"}, f"{name}{pin}: name the first release that was not tried"


def test_python_lends_us_members_only_in_versions_that_were_tried() -> None:
    assert sys.version_info[:2] in PYTHONS, (
        f"Python {sys.version.split()[0]} is new: check the members of asyncio in LOANS against its source, run "
        "tests/web/test_server.py, and add the version to PYTHONS and to the hint in agent/web/server.py"
    )


# --- the search


def is_own(node: ast.AST) -> bool:
    """True for ``self``, ``cls`` and ``super()``."""
    if isinstance(node, ast.Call):
        node = node.func
    return isinstance(node, ast.Name) and node.id in {"self", "cls", "super"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_") and name not in DOCUMENTED


@cache
def product() -> dict[str, ast.Module]:
    files = (path for folder in OURS for path in (ROOT / folder).rglob("*.py") if "build" not in path.parts)
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8")) for path in sorted(files)}


def bound(tree: ast.AST) -> Iterator[str]:
    """Names that a file gives to functions, classes, variables and members of its own objects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
            yield node.attr


def touched(tree: ast.AST) -> Iterator[str]:
    """Private names of other objects and modules that a file uses."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=value, attr=name) if not is_own(value):
                yield name
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(value=str(name)), *_]
            ):
                yield name
            case ast.Import(names=names):
                yield from (part for one in names if not is_ours(one.name) for part in one.name.split("."))
            case ast.ImportFrom(module=str(module), names=names, level=0) if not is_ours(module):
                yield from (*module.split("."), *(one.name for one in names))


def heirs() -> Iterator[tuple[str, ast.ClassDef, type]]:
    """Our classes that have a base class of somebody else."""
    for file, tree in product().items():
        for made in tree.body:
            if not isinstance(made, ast.ClassDef) or not made.bases:
                continue
            module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            owner = getattr(importlib.import_module(module), made.name)
            if any(not is_ours(base.__module__) and base is not object for base in owner.__mro__):
                yield file, made, owner


def inherited(made: ast.ClassDef, owner: type) -> set[str]:
    """Private names that a class uses or defines, and that a base class of somebody else has too."""
    used = {node.attr for node in ast.walk(made) if isinstance(node, ast.Attribute) and is_own(node.value)}
    return (used | set(bound(made))) & members(owner)


def test_nothing_else_is_borrowed() -> None:
    """A private name that our class defines counts too if its foreign base has it: ours then replaces theirs."""
    ours = {name for tree in product().values() for name in bound(tree)}
    found = {(file, name) for file, tree in product().items() for name in touched(tree) if name not in ours}
    found |= {(file, name) for file, made, owner in heirs() for name in inherited(made, owner)}
    listed = {(file, loan.member) for loan in LOANS for file in loan.files if is_private(loan.member)}
    new = sorted(one for one in found if is_private(one[1]) and one not in listed)
    assert not new, f"use a public member, or add these to LOANS and pin their library: {new}"
    stale = sorted(listed - found)
    assert not stale, f"these are no longer used, so remove them from LOANS: {stale}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import paho\npaho.connect()._late", "_late"),
        ("from uvicorn import _late", "_late"),
        ("import uvicorn._late", "_late"),
        ("getattr(thing, '_late')", "_late"),
        ("def f(sock): sock._late = 1", "_late"),
    ],
)
def test_the_search_sees_each_way_to_reach_into_a_library(text: str, name: str) -> None:
    tree = ast.parse(text)
    assert name in set(touched(tree)) - set(bound(tree))


def test_the_search_sees_members_that_a_class_overrides_sets_or_calls() -> None:
    method = "def _sock_recv(self):\n  self._sock = super()._mid_generate()\n  self._new = 1"
    made = ast.parse(f"class Late(Client):\n {method}\n").body[0]
    assert isinstance(made, ast.ClassDef)
    assert inherited(made, resolve(PAHO)) == {"_sock_recv", "_sock", "_mid_generate"}
