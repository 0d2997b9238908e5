"""What holds for every method that users call."""

from __future__ import annotations

import inspect
import itertools
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hqueue import errors, wire

JUNK = (
    None,
    "",
    "x",
    "1",
    -1,
    0,
    1,
    2**31,
    2**63 - 1,
    -(2**63),
    10**30,
    "9" * 40,
    1.5,
    True,
    [],
    [None],
    ["x"],
    [[1]],
    {},
    {"a": 1},
    b"\xff",
    [1, 1],
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


PUBLISHED = {each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, errors.HQueueError)}


def answered(api, name, params):
    """Call a method; what it answers can be sent, and what it refuses is the caller's to mend."""
    refusal = None
    try:
        wire.dumps_response(api.call(name, *params))
    except errors.HQueueError as error:
        refusal = error
    if refusal is not None:
        assert type(refusal) in PUBLISHED, (name, params)
        if isinstance(refusal, errors.InvalidArgumentError):
            named = [each.name for each in api.table.find(name).parameters()]
            assert any(each in refusal.message for each in named), (refusal.message, name, params)
        assert refusal.code not in {errors.InternalError.code, errors.HQueueError.code}, (name, params)
        assert refusal.message, (name, params)
        wire.dumps_fault(refusal.code, refusal.message)


def users_methods(api):
    return [name for name in api.table.names() if not name.startswith("system.")]


def test_junk_is_answered_or_refused_by_every_method(api):
    api.farm.machine("farm-ü")
    api.newjob([{"name": "Bild-ä", "command": "c"}] * 2)
    api.addNote("x")
    for name in users_methods(api):
        parameters = api.table.find(name).parameters()
        needed = sum(each.default is each.empty for each in parameters)
        for count in range(needed, len(parameters) + 1):
            for place, junk in itertools.product(range(max(1, count)), JUNK):
                params = [1] * count
                if count:
                    params[place] = junk
                answered(api, name, params)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_anything_is_answered_or_refused(api, data):
    name = data.draw(st.sampled_from(users_methods(api)))
    most = len(api.table.find(name).parameters())
    answered(api, name, data.draw(st.lists(ANYTHING, max_size=most + 1)))


def test_too_few_and_too_many_arguments_are_faults_that_name_the_signature(api):
    for name in users_methods(api):
        method = api.table.find(name)
        with pytest.raises(errors.WrongArgumentsError, match=re.escape(method.shown())):
            api.call(name, *[1] * (len(method.parameters()) + 1))
        if any(each.default is each.empty for each in method.parameters()):
            with pytest.raises(errors.WrongArgumentsError, match=re.escape(method.shown())):
                api.call(name)


@pytest.mark.parametrize("nothing", ["", None])
def test_an_empty_text_stands_for_an_argument_that_is_left_out(api, nothing):
    """Callers without nil can leave out only the last."""

    def outcome(name, params):
        try:
            return wire.dumps_response(api.call(name, *params))
        except errors.HQueueError as error:
            return error.code, error.message

    api.farm.machine("farm-ü")
    api.newjob([{"name": "Bild-ä", "command": "c"}] * 2)
    tried = []
    for name in users_methods(api):
        parameters = api.table.find(name).parameters()
        optional = sum(each.default is not each.empty for each in parameters)
        if optional:
            tried.append(name)
            needed = [1] * (len(parameters) - optional)
            left_out = outcome(name, needed)
            for count in range(1, optional + 1):
                assert outcome(name, [*needed, *[nothing] * count]) == left_out, (name, count)
    assert {"getClients", "getClientGroups", "getResources", "getJobOutput", "getChanges", "newjob"} <= set(tried)


@pytest.mark.parametrize("nothing", ["", None, 0])
def test_no_ids_are_all(api, nothing):
    api.farm.machine("farm-ü")
    api.call("createClientGroup", "größe")
    api.call("createResource", "lizenz", 1)
    api.newjob([{"name": "Bild-ä", "command": "c"}])
    api.addNote("x", None, 1)
    for name in ("getClients", "getClientGroups", "getResources", "getNoteThreads", "getLatestNotes"):
        assert len(api.call(name, nothing)) == len(api.call(name)) > 0, name
        assert api.call(name, []) == [], name


def test_every_method_tells_what_it_does_and_where_that_comes_from(api):
    for name in users_methods(api):
        first, *rest = api.table.find(name).help.splitlines()
        assert re.fullmatch(r"[A-Z][^\n]{10,}[.;:]?.*", first), name
        sources = [line for line in rest if line.strip().startswith("Source:")]
        assert len(sources) == 1, name
        assert re.match(r"Source: (12|17|ours)[.,]", sources[0].strip()), name


def test_every_method_says_its_types(api):
    for name in users_methods(api):
        for signature in api.call("system.methodSignature", name):
            assert signature[0] != "any", name
