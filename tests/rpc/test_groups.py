"""The groups of clients."""

from __future__ import annotations

import pytest

from hqueue import errors


def test_groups_and_their_members(api_everywhere):
    api = api_everywhere
    first, second = api.farm.machine("farm-a"), api.farm.machine("farm-b")
    sim, fast = api.createClientGroup("Sim, schnell; ü"), api.createClientGroup("schnell")
    assert api.addClientToGroup(sim, str(second.id)) is True
    assert api.addClientToGroup(sim, first.id) is True
    assert api.addClientToGroup(sim, first.id) is True
    assert api.getClientGroups() == [
        {"clients": [first.id, second.id], "id": sim, "name": "Sim, schnell; ü"},
        {"clients": [], "id": fast, "name": "schnell"},
    ]
    assert api.getClientGroups([fast, 987654321, sim], ["name"]) == [{"name": "schnell"}, {"name": "Sim, schnell; ü"}]
    assert api.getClientGroup(fast, ["id"]) == {"id": fast}
    assert api.getClientGroup(987654321) is None
    assert api.getClientGroupByName("schnell", ["id", "clients"]) == {"id": fast, "clients": []}
    assert api.getClientGroupByName("Schnell") is None
    assert api.removeClientFromGroup(sim, first.id) is True
    assert api.removeClientFromGroup(sim, first.id) is True
    assert api.getClientGroup(sim, ["clients"]) == {"clients": [second.id]}
    assert api.deleteClientGroup(sim) is True
    assert [group["id"] for group in api.getClientGroups()] == [fast]
    assert api.getClient(second.id, ["groups"]) == {"groups": []}


def test_blanks_around_a_name_are_no_part_of_it(api):
    """A condition could not name them."""
    group = api.createClientGroup("  sim ")
    assert api.getClientGroups() == [{"clients": [], "id": group, "name": "sim"}]
    assert api.getClientGroupByName(" sim", ["id"]) == {"id": group}
    with pytest.raises(errors.DuplicateNameError):
        api.createClientGroup("sim ")


def test_a_name_is_given_once(api):
    api.createClientGroup("Gruppe")
    with pytest.raises(errors.DuplicateNameError, match="'Gruppe'"):
        api.createClientGroup("Gruppe")
    with pytest.raises(errors.DuplicateNameError):
        api.createClientGroup("Gru\x07ppe")
    assert api.getClientGroupByName("Gru\x07ppe", ["name"]) == {"name": "Gruppe"}


@pytest.mark.parametrize("name", ["", "  ", "x" * 256, None, 3])
def test_what_is_no_name(api, name):
    with pytest.raises(errors.InvalidArgumentError, match="name is"):
        api.createClientGroup(name)
    assert api.getClientGroups() == []


@pytest.mark.parametrize("method", ["addClientToGroup", "removeClientFromGroup"])
def test_what_does_not_exist_cannot_be_joined(api, method):
    machine = api.farm.machine()
    group = api.createClientGroup("g")
    with pytest.raises(errors.UnknownGroupError, match="group_id is 987654321"):
        api.call(method, 987654321, machine.id)
    with pytest.raises(errors.UnknownClientError, match="client_id is '987654321'"):
        api.call(method, group, "987654321")
    with pytest.raises(errors.UnknownGroupError, match="id is 987654321"):
        api.deleteClientGroup(987654321)


def test_unknown_attributes_are_faults(api):
    with pytest.raises(errors.UnknownAttributeError, match="clients, id, name"):
        api.getClientGroups(None, ["members"])
