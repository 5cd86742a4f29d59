"""Ids lead to pages, and the navigation knows where a page belongs."""

import pytest

from interlock.console.places import PLACES, RULES, place_of_id, place_of_rule
from interlock.console.screens import SCREENS, navigation, open_screen
from tests.support.policy_matrix import registry


def test_an_id_leads_to_the_page_of_its_kind():
    assert place_of_id("req_01m8jg5qf1e00bdpq51catpdqc") == "/console/requests/req_01m8jg5qf1e00bdpq51catpdqc"


@pytest.mark.parametrize("text", ["", "req", "req_", "req_../x", "org_01m8jg5qf1e00bdpq51catpdqc", "req_é", "req_a?b"])
def test_what_is_no_id_of_a_page_leads_nowhere(text):
    assert place_of_id(text) is None


def test_a_rule_leads_to_the_screen_on_which_it_is_kept():
    assert place_of_rule("limit_01m8jg5qf1e00bdpq51catpdqc") == place_of_rule("limits.exact") == "/console/limits"
    assert place_of_rule("kill.route.shop") == "/console/kills"
    assert place_of_rule("route.gpt-4.1.fallbacks") == "/console/routes"
    assert place_of_rule("upstream.status_500") is place_of_rule("") is None


def test_every_place_is_a_screen():
    paths = {screen.path.replace("{id}", "{}") for screen in SCREENS}
    assert set(PLACES.values()) <= paths
    assert set(RULES.values()) <= paths


def test_every_screen_is_the_path_of_a_route_whose_rule_says_who_sees_it():
    paths = {route.path for route in registry() if route.method == "GET"}
    assert [screen.path for screen in SCREENS if screen.path not in paths] == []


def test_a_page_of_one_thing_is_marked_under_the_list_it_is_reached_from():
    assert open_screen("story") == "requests"
    assert open_screen("keys") == "keys"
    assert open_screen("") == ""
    listed = [screen.id for _, within in navigation(bool) for screen in within]
    assert all(screen.parent in listed for screen in SCREENS if not screen.is_listed)
    assert len({group for group, _ in navigation(bool)}) == len(navigation(bool))
